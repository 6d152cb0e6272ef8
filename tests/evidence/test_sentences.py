"""What a claim says in words: one text of each kind, as a cell shows it and as text."""

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from qs_helpers.evidence import claims
from qs_helpers.evidence.record import start_run
from qs_helpers.evidence.sentences import Sentence, Table, in_a_sentence
from qs_helpers.evidence.stats import Against, Estimate

PARTS = Estimate(0.94, 0.84, 0.98, 50, 50)
ENTRY = {
    **{"id": "a", "kind": "empirical", "badge": "SHOWN", "sentence": "47 of 50 prompts switch"},
    **{"value": 0.94, "interval": [0.84, 0.98], "n": 1500, "groups": 50, "family": 1},
    **{"null": None, "baselines": [], "matched": None, "needs": "x", "why": ""},
}
NULL = {
    **{"name": "random directions", "draws": 20, "mean": 0.01, "best": 0.02, "rank": 1},
    **{"difference": 0.93, "difference_interval": [0.83, 0.97]},
}
WORSE = {
    **{"name": "probe", "answer": "worse", "margin": 0.1, "difference": -0.2},
    "difference_interval": [-0.3, -0.12],
}
ABOUT = "47 of 50 prompts switch (0.94; 95 % interval 0.84 to 0.98; n = 1,500 in 50 groups)"
RANDOM = (
    "random directions, 20 draws: mean 0.01, best 0.02; difference to their mean 0.93 [0.83, 0.97]"
)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, f"{ABOUT}."),
        (
            {"family": 5},
            "47 of 50 prompts switch (0.94; 95 % interval 0.84 to 0.98, simultaneous for 5 claims; "
            "n = 1,500 in 50 groups).",
        ),
        ({"null": NULL}, f"{ABOUT}; {RANDOM}, first among them."),
        ({"null": NULL | {"rank": 3}}, f"{ABOUT}; {RANDOM}, number 3 among them."),
        (
            {"baselines": [WORSE, WORSE | {"name": "mask", "answer": "undecided"}]},
            f"{ABOUT}; against probe: worse, difference -0.2 [-0.3, -0.12]; "
            "against mask: undecided, difference -0.2 [-0.3, -0.12].",
        ),
        (
            {"matched": {"count": 40, "percentile": 95.0, "as_good": ["7", "12"]}},
            f"{ABOUT}; better than 95 % of 40 matched features, as good: 7, 12.",
        ),
        (
            {"matched": {"count": 40, "percentile": 100.0, "as_good": []}},
            f"{ABOUT}; better than 100 % of 40 matched features, as good: none.",
        ),
        (
            {"matched": {"count": 40, "percentile": 85.0, "as_good": list("abcdef")}},
            f"{ABOUT}; better than 85 % of 40 matched features, as good: a, b, c, d, e.",
        ),
        ({"interval": None, "n": None, "groups": None}, "47 of 50 prompts switch (0.94)."),
        (
            {"interval": None, "n": 1, "groups": None},
            "47 of 50 prompts switch (0.94; one example: an anecdote).",
        ),
        ({"interval": None, "groups": None}, "47 of 50 prompts switch (0.94; n = 1,500)."),
        (
            {"value": "inf", "interval": [1.0, "inf"]},
            "47 of 50 prompts switch (inf; 95 % interval 1 to inf; n = 1,500 in 50 groups).",
        ),
    ],
)
def test_texts_of_measurements(change, text):
    assert in_a_sentence(ENTRY | change) == text


@pytest.mark.parametrize(
    ("value", "n", "text"),
    [
        (None, None, "No hook is left."),
        (0, None, "No hook is left (0)."),
        (1.25e-7, 64, "No hook is left (1.25e-07; n = 64)."),
        (None, 64, "No hook is left (n = 64)."),
    ],
)
def test_texts_of_invariants(value, n, text):
    entry = {"kind": "invariant", "sentence": "No hook is left", "value": value, "n": n}
    assert in_a_sentence(entry) == text


def test_a_cell_shows_markdown_and_other_places_plain_text():
    needs, why = "the interval lies above 0.9", "the interval begins at 0.84, not above 0.9"
    shown = Sentence(ENTRY | {"badge": "NOT SHOWN", "needs": needs, "why": why}, tiny=True)
    assert repr(shown) == (
        f"NOT SHOWN  {ABOUT}. [tiny scope]\n           SHOWN needs: {needs}.\n"
        f"           Here: {why}."
    )
    assert shown._repr_markdown_() == (
        f"> **NOT SHOWN** {ABOUT}. [tiny scope]<br><sub>SHOWN needs: {needs}. Here: {why}.</sub>"
    )
    assert "tiny scope" not in repr(Sentence(ENTRY, tiny=False))


def test_a_measurement_needs_nothing_and_an_invariant_says_only_what_holds():
    why = "no threshold and no control"
    entry = ENTRY | {"badge": "MEASURED", "needs": "no verdict: a measurement", "why": why}
    shown = Sentence(entry, tiny=False)
    assert repr(shown) == f"MEASURED   {ABOUT}.\n           Here: {why}."
    entry = {"kind": "invariant", "badge": "HOLDS", "sentence": "No hook is left"}
    shown = Sentence(entry | {"value": 0, "n": None}, tiny=False)
    assert repr(shown) == "HOLDS      No hook is left (0)."
    assert shown._repr_markdown_() == "> **HOLDS** No hook is left (0)."


CLAIMS = {
    "rate": {"asks": "How often | ever?"},
    "one-feature": {"asks": "Does one feature detect it?", "above": 0.9},
    "band": {"asks": "Is it in between?", "above": 0.2, "below": 0.8},
    "steers": {
        **{"asks": "Does it steer?", "null": "random directions", "margin": 0.1},
        **{"family": ["de", "fr"], "baselines": {"diff-of-means": 0.05, "prompt": 0.1}},
    },
    "fewer": {"asks": "Are there fewer?", "below": 0.5, "null": "random sets", "fewer": True},
}
NEEDS = {
    "rate": "no verdict: a measurement",
    "one-feature": "the interval lies above 0.9",
    "band": "the interval lies above 0.2 and the interval lies below 0.8",
    "steers": "the difference to the mean of random directions lies above 0 by more than 0.1, and "
    "it is the highest of at least 39 draws",
    "fewer": "the interval lies below 0.5 and the difference to the mean of random sets lies below "
    "0, and it is the lowest of at least 19 draws",
}


def test_the_table_of_what_is_announced():
    made = {name: claims.Announced(**fields) for name, fields in CLAIMS.items()}
    assert {name: it.needs() for name, it in made.items()} == NEEDS
    lines = Table(made)._repr_markdown_().splitlines()
    assert lines[:3] == [
        "| claim | asks | SHOWN if |",
        "|---|---|---|",
        f"| rate | How often \\| ever? | {NEEDS['rate']} |",
    ]
    asks = "Does it steer? Together for de, fr. Compared with diff-of-means, prompt."
    assert lines[5] == f"| steers/… | {asks} | {NEEDS['steers']} |" and len(lines) == 7
    text = repr(Table(made)).splitlines()
    assert text[1] == f"one-feature: Does one feature detect it? SHOWN if: {NEEDS['one-feature']}."


def test_without_a_shell_both_print_text(run, capsys):
    claims.announce({"one-feature": CLAIMS["one-feature"]})
    claims.claim("one-feature", "It detects 47 of 50", PARTS)
    assert capsys.readouterr().out == (
        f"one-feature: Does one feature detect it? SHOWN if: {NEEDS['one-feature']}.\n"
        "NOT SHOWN  It detects 47 of 50 (0.94; 95 % interval 0.84 to 0.98; n = 50 in 50 groups). "
        "[tiny scope]\n           SHOWN needs: the interval lies above 0.9.\n"
        "           Here: the interval begins at 0.84, not above 0.9.\n"
    )


@pytest.fixture
def shell():
    config = Config({"HistoryManager": {"enabled": False}})
    yield InteractiveShell.instance(config=config)
    InteractiveShell.clear_instance()


def test_in_a_notebook_both_are_markdown(shell, run):
    with capture_output() as seen:
        claims.announce({"one-feature": CLAIMS["one-feature"]})
        claims.claim("one-feature", "It detects 47 of 50", PARTS)
        claims.holds("hooks-left", "No hook is left", True, 0)
    table, found, invariant = (output.data for output in seen.outputs)
    assert table["text/markdown"].startswith("| claim | asks |")
    assert found["text/markdown"].startswith("> **NOT SHOWN** It detects 47 of 50")
    assert found["text/plain"].startswith("NOT SHOWN  It detects 47 of 50")
    assert invariant["text/markdown"] == "> **HOLDS** No hook is left (0). [tiny scope]"


CELL = (
    "from qs_helpers.evidence.claims import claim\n"
    "claim('one-feature', 'A', {0})\nclaim('band', 'B', {0})"
)


def test_a_cell_that_runs_again_by_hand_replaces_its_claims(shell, by_hand):
    with capture_output():
        claims.announce(CLAIMS)
        for value in (1, 2):
            assert shell.run_cell(CELL.format(value), store_history=True).success
    assert [(c["id"], c["value"]) for c in by_hand.data["claims"]] == [
        ("one-feature", 2),
        ("band", 2),
    ]


def test_two_claims_of_one_id_in_a_cell_are_refused_by_hand_too(shell, by_hand):
    with capture_output():
        claims.announce(CLAIMS)
        found = shell.run_cell(CELL.replace("'band'", "'one-feature'").format(1))
    assert "claim 'one-feature' is made twice" in str(found.error_in_exec)


def test_a_cell_that_runs_again_in_a_report_is_refused(shell, run):
    with capture_output():
        claims.announce(CLAIMS)
        assert shell.run_cell(CELL.format(1), store_history=True).success
        found = shell.run_cell(CELL.format(2), store_history=True)
    assert "claim 'one-feature' is made twice" in str(found.error_in_exec)


def test_a_claim_of_a_real_model_has_no_label(capsys):
    start_run("01_load", "qwen3-8b-l50")
    claims.announce({"steers": CLAIMS["steers"]})
    effect = Estimate(0.9, 0.8, 0.95, 40, 20, 2)
    null = Against(Estimate(0.8, 0.7, 0.85, 40, 20, 2), 0.9, np.full(39, 0.1))
    probe = {"prompt": Estimate(0.0, -0.09, 0.1, 40, 20, 2)}
    claims.claim("steers/fr", "French", effect, null=null, baselines=probe, matched={7: 0.95})
    assert capsys.readouterr().out.splitlines()[1] == (
        "SHOWN      French (0.9; 95 % interval 0.8 to 0.95, simultaneous for 2 claims; "
        "n = 40 in 20 groups); random directions, 39 draws: mean 0.1, best 0.1; "
        "difference to their mean 0.8 [0.7, 0.85], "
        "first among them; against prompt: not worse by more than 0.1, difference 0 [-0.09, 0.1]; "
        "better than 0 % of 1 matched features, as good: 7."
    )


def test_what_looks_like_markup_is_shown_letter_by_letter(shell, run):
    with capture_output() as seen:
        claims.holds("markers", "After <|im_end|> come $u$ and |cos| * 2", True)
    shown = seen.outputs[0].data["text/markdown"]
    assert r"After \<\|im_end\|> come \$u\$ and \|cos\| \* 2" in shown
    assert "After <|im_end|> come $u$ and |cos| * 2" in seen.outputs[0].data["text/plain"]
