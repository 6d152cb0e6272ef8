"""The rule: what each badge needs, at its boundaries; what is refused; what is recorded."""

import json
from hashlib import sha256
from math import inf, nan

import numpy as np
import pytest
import torch

from qs_helpers.evidence.claims import Announced, ClaimFailed, announce, claim, holds
from qs_helpers.evidence.record import start_run
from qs_helpers.evidence.stats import Against, Estimate, difference, mean, share


def saved(run) -> dict:
    return json.loads((run.folder / "results.json").read_text(encoding="utf-8"))


def part(value=0.5, low=0.4, high=0.6, n=40, groups=20, family=1):
    return Estimate(value, low, high, n, groups, family)


def against(value=0.5, draws=(0.1,) * 19, low=0.3, high=0.5, groups=20, family=1):
    gap = Estimate(value - np.mean(draws), low, high, 40, groups, family)
    return Against(gap, value, np.asarray(draws, float))


def judge(run, fields, estimate, member="", **measured) -> tuple[str, str]:
    """Badge and reason of a claim "c" that was announced with these fields."""
    announce({"c": {"asks": "Is it?"} | fields})
    claim(f"c/{member}" if member else "c", "It is", estimate, **measured)
    entry = saved(run)["claims"][-1]
    return entry["badge"], entry["why"]


# ---- thresholds


@pytest.mark.parametrize(
    ("fields", "ends", "why"),
    [
        ({"above": 0.4}, (0.4001, 0.6), ""),
        ({"above": 0.4}, (0.4, 0.6), "the interval begins at 0.4, not above 0.4"),
        ({"above": 0.4}, (0.3, 0.6), "the interval begins at 0.3, not above 0.4"),
        ({"below": 0.6}, (0.4, 0.5999), ""),
        ({"below": 0.6}, (0.4, 0.6), "the interval ends at 0.6, not below 0.6"),
        ({"below": 0.6}, (0.4, 0.7), "the interval ends at 0.7, not below 0.6"),
        ({"above": 0.3, "below": 0.7}, (0.31, 0.69), ""),
        ({"above": 0.3, "below": 0.7}, (0.3, 0.69), "the interval begins at 0.3, not above 0.3"),
        ({"above": 0.3, "below": 0.7}, (0.31, 0.7), "the interval ends at 0.7, not below 0.7"),
        (
            {"above": 0.3, "below": 0.7},
            (0.2, 0.8),
            "the interval begins at 0.2, not above 0.3; the interval ends at 0.8, not below 0.7",
        ),
        ({"above": 0}, (0.1, inf), ""),
        ({"above": 0}, (-inf, 0.6), "the interval begins at -inf, not above 0"),
        ({"below": 3}, (0.1, inf), "the interval ends at inf, not below 3"),
    ],
)
def test_the_interval_lies_beyond_the_threshold_and_an_end_on_it_is_not_beyond(
    run, fields, ends, why
):
    assert judge(run, fields, part(0.5, *ends)) == ("NOT SHOWN" if why else "SHOWN", why)


@pytest.mark.parametrize(
    ("fields", "estimate", "why"),
    [
        ({}, part(), "no threshold and no control"),
        ({}, 0.5, "no threshold and no control"),
        ({"baselines": {"probe": 0.1}}, part(), "no threshold and no control"),
        ({"above": 0.1}, 0.5, "no interval"),
        ({"above": 0.1}, part(low=nan, high=nan), "no interval"),
        ({"above": 0.1}, part(0.5, 0.5, 0.5), "an interval without width"),
        ({"above": 0.1}, part(1.0, 1.0, 1.0), "an interval without width"),
        ({"above": 0.1}, part(0.5, 0.6, 0.4), "an interval without width"),
        ({"above": 0.1}, part(n=0), "groups are not known"),
        ({"above": 0.1}, part(groups=0), "groups are not known"),
        ({"above": 0.1}, part(groups=7), "7 groups, and a verdict needs 8"),
        ({"above": 0.45}, part(groups=7), "7 groups, and a verdict needs 8"),
        ({"above": 0.1}, part(nan), "the value is no number"),
        ({"above": 0.1}, part(inf), "the value is no number"),
        ({"below": 0.9}, np.float32("-inf"), "the value is no number"),
        ({"below": 0.9}, torch.tensor(nan), "the value is no number"),
    ],
)
def test_what_lacks_something_is_a_measurement(run, fields, estimate, why):
    assert judge(run, fields, estimate) == ("MEASURED", why)


def test_eight_groups_are_enough(run):
    assert judge(run, {"above": 0.1}, part(groups=8)) == ("SHOWN", "")
    assert judge(run := start_run("b", "tiny"), {"above": 0.45}, part(groups=8))[0] == "NOT SHOWN"


# ---- null controls

RANDOM = {"null": "random directions"}


@pytest.mark.parametrize(
    ("fields", "null", "badge", "why"),
    [
        (RANDOM, against(), "SHOWN", ""),
        (RANDOM, against(draws=[0.4999] * 19), "SHOWN", ""),
        (
            RANDOM,  # a tie is not first
            against(draws=[0.1] * 18 + [0.5]),
            "NOT SHOWN",
            "it is not the first among random directions",
        ),
        (
            RANDOM,
            against(low=0.0),
            "NOT SHOWN",
            "its difference to the mean of random directions may be 0 to 0.5",
        ),
        (
            RANDOM | {"margin": 0.3},
            against(low=0.3),
            "NOT SHOWN",
            "its difference to the mean of random directions may be 0.3 to 0.5",
        ),
        (RANDOM | {"margin": 0.3}, against(low=0.3001), "SHOWN", ""),
        (
            RANDOM,
            against(draws=[0.6] + [0.1] * 18, low=-0.1),
            "NOT SHOWN",
            "its difference to the mean of random directions may be -0.1 to 0.5; "
            "it is not the first among random directions",
        ),
        (RANDOM, None, "MEASURED", "random directions were not measured"),
        (RANDOM, against(draws=[0.1] * 18), "MEASURED", "18 null draws, and the rank needs 19"),
        (RANDOM, against(groups=7), "MEASURED", "7 groups, and a verdict needs 8"),
        (RANDOM, against(low=nan, high=nan), "MEASURED", "no interval"),
        (RANDOM, against(low=0.4, high=0.4), "MEASURED", "an interval without width"),
        # Both a threshold and a null.
        (RANDOM | {"above": 0.3}, against(), "SHOWN", ""),
        (
            RANDOM | {"above": 0.4},
            against(),
            "NOT SHOWN",
            "the interval begins at 0.4, not above 0.4",
        ),
        (RANDOM | {"above": 0.3}, None, "MEASURED", "random directions were not measured"),
    ],
)
def test_null_controls(run, fields, null, badge, why):
    assert judge(run, fields, part(), null=null) == (badge, why)


def test_a_null_needs_the_interval_of_the_effect_too(run):
    assert judge(run, RANDOM, 0.5, null=against()) == ("MEASURED", "no interval")


@pytest.mark.parametrize(
    ("draws", "ends", "badge", "why"),
    [
        ([0.9] * 19, (-0.5, -0.11), "SHOWN", ""),
        (
            [0.9] * 19,
            (-0.5, -0.1),
            "NOT SHOWN",
            "its difference to the mean of random directions may be -0.5 to -0.1",
        ),
        (
            [0.9] * 18 + [0.5],
            (-0.5, -0.2),
            "NOT SHOWN",
            "it is not the first among random directions",
        ),
        (
            [0.1] * 19,
            (0.2, 0.5),
            "NOT SHOWN",
            "its difference to the mean of random directions may be 0.2 to 0.5; "
            "it is not the first among random directions",
        ),
    ],
)
def test_fewer_than_the_null(run, draws, ends, badge, why):
    fields = RANDOM | {"margin": 0.1, "fewer": True}
    assert judge(run, fields, part(), null=against(0.5, draws, *ends)) == (badge, why)
    null = saved(run)["claims"][0]["null"]
    assert null["best"] == min(draws) and null["mean"] == pytest.approx(np.mean(draws))


@pytest.mark.parametrize(
    ("draws", "fewer", "rank"),
    [
        ([0.1] * 19, False, 1),
        ([0.5] + [0.1] * 18, False, 2),
        ([0.9, 0.5, 0.5] + [0.1] * 16, False, 4),
        ([0.9] * 19, True, 1),
        ([0.9, 0.5, 0.1] + [0.9] * 16, True, 3),
    ],
)
def test_rank_among_the_draws(run, draws, fewer, rank):
    judge(run, RANDOM | {"fewer": fewer}, part(), null=against(draws=draws))
    null = saved(run)["claims"][0]["null"]
    assert null["rank"] == rank and null["draws"] == 19 and null["name"] == RANDOM["null"]


def test_the_null_is_recorded(run):
    judge(run, RANDOM | {"margin": 0.05}, part(), null=against(draws=[0.0] * 10 + [0.2] * 10))
    null = saved(run)["claims"][0]["null"]
    assert null.pop("mean") == pytest.approx(0.1) and null.pop("difference") == pytest.approx(0.4)
    assert null == {
        **{"name": RANDOM["null"], "draws": 20, "best": 0.2, "rank": 1, "margin": 0.05},
        "difference_interval": [0.3, 0.5],
    }


# ---- families

TWO = {"family": ["de", "fr"]}


@pytest.mark.parametrize(
    ("draws", "badge"), [(38, "MEASURED"), (39, "SHOWN"), (40, "SHOWN"), (19, "MEASURED")]
)
def test_a_family_of_two_needs_39_draws(run, draws, badge):
    null = against(draws=[0.1] * draws, family=2)
    found, why = judge(run, RANDOM | TWO, part(family=2), "de", null=null)
    assert found == badge
    assert why == ("" if badge == "SHOWN" else f"{draws} null draws, and the rank needs 39")


def test_the_members_of_a_family_are_judged_one_by_one(run):
    announce({"c": {"asks": "Is it?", "above": 0.3} | TWO})
    claim("c/fr", "French", part(family=2))
    claim("c/de", "German", part(0.2, 0.1, 0.4, family=2))
    found = [(c["id"], c["badge"], c["family"]) for c in saved(run)["claims"]]
    assert found == [("c/fr", "SHOWN", 2), ("c/de", "NOT SHOWN", 2)]


@pytest.mark.parametrize("m", [1, 2, 5, 10])
def test_draws_and_level_of_a_family(m):
    it = Announced("Is it?", null="x", family=list("abcdefghij")[:m])
    assert it.m == m and it.draws == 20 * m - 1
    assert Announced("Is it?").m == 1 and Announced("Is it?").draws == 19


# ---- baselines and matched features: words, no verdict


@pytest.mark.parametrize(
    ("low", "high", "more", "less"),
    [
        (0.01, 0.3, "better", "worse"),
        (0.0, 0.3, "not worse by more than 0.1", "undecided"),
        (-0.0999, 0.3, "not worse by more than 0.1", "undecided"),
        (-0.1, 0.3, "undecided", "undecided"),
        (-0.3, 0.3, "undecided", "undecided"),
        (-0.3, 0.0, "undecided", "not worse by more than 0.1"),
        (-0.3, -0.01, "worse", "better"),
        (-0.05, -0.01, "not worse by more than 0.1", "better"),
        (-0.3, 0.0999, "undecided", "not worse by more than 0.1"),
        (0.01, 0.05, "better", "not worse by more than 0.1"),
        (nan, nan, "undecided", "undecided"),
    ],
)
def test_baselines(run, low, high, more, less):
    gap = {"probe": part((low + high) / 2, low, high)}
    null, higher = against(), against(draws=[0.9] * 19, low=-0.5, high=-0.3)
    for name, fields, null_, answer in (
        ("a", {"above": 0.3}, None, more),
        ("b", RANDOM, null, more),
        ("c", {"below": 0.7}, None, less),
        ("d", RANDOM | {"fewer": True}, higher, less),
    ):
        announce({name: {"asks": "Is it?", "baselines": {"probe": 0.1, "mask": 0}} | fields})
        claim(name, "It is", part(), null=null_, baselines=gap)
        entry = saved(run)["claims"][-1]
        assert entry["badge"] == "SHOWN"  # whatever the baseline does
        (base,) = entry["baselines"]
        assert (base["name"], base["answer"], base["margin"]) == ("probe", answer, 0.1)


@pytest.mark.parametrize(("groups", "answer"), [(7, "undecided"), (8, "better")])
def test_a_baseline_needs_eight_groups_too(run, groups, answer):
    gap = {"probe": part(0.2, 0.1, 0.3, groups=groups)}
    judge(run, {"above": 0.3, "baselines": {"probe": 0.1}}, part(), baselines=gap)
    assert saved(run)["claims"][0]["baselines"][0]["answer"] == answer


@pytest.mark.parametrize(
    ("fields", "percentile", "as_good"),
    [
        ({"above": 0.3}, 50, ["11", "12"]),
        ({"below": 0.7}, 25, ["10", "11", "13"]),
        (RANDOM | {"fewer": True}, 25, ["10", "11", "13"]),
        ({}, 50, ["11", "12"]),
    ],
)
def test_matched_features_are_named_and_do_not_veto(run, fields, percentile, as_good):
    matched = {10: 0.2, 11: 0.5, 12: 0.9, 13: 0.1}  # a tie does as well
    badge, _ = judge(run, fields, part(), matched=matched)
    assert badge == ("SHOWN" if set(fields) & {"above", "below"} else "MEASURED")
    found = saved(run)["claims"][0]["matched"]
    assert found == {"count": 4, "percentile": percentile, "as_good": as_good}


# ---- what is refused


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"One": {"asks": "?"}}, "claim id 'One': use a-z, 0-9 and -, as 'one-feature'"),
        ({"a_b": {"asks": "?"}}, "claim id 'a_b'"),
        ({"a-": {"asks": "?"}}, "claim id 'a-'"),
        ({"-a": {"asks": "?"}}, "claim id '-a'"),
        ({"a--b": {"asks": "?"}}, "claim id 'a--b'"),
        ({"a/b": {"asks": "?"}}, "claim id 'a/b'"),
        ({"": {"asks": "?"}}, "claim id ''"),
        ({"a\n": {"asks": "?"}}, "claim id"),
        ({"a": {"asks": "?", "abov": 1}}, "claim 'a': 'abov'; did you mean above?"),
        ({"a": {"above": 1}}, "claim 'a' asks nothing: say in 'asks' what it is about"),
        ({"a": {"asks": " "}}, "claim 'a' asks nothing"),
        (
            {"a": {"asks": "?", "above": 0.5, "below": 0.5}},
            "nothing is above 0.5 and below 0.5",
        ),
        ({"a": {"asks": "?", "above": 0.6, "below": 0.5}}, "nothing is above 0.6 and below 0.5"),
        ({"a": {"asks": "?", "margin": 0.1}}, "has a margin to no null; name it in 'null'"),
        ({"a": {"asks": "?", "above": 1, "fewer": True}}, "has a margin to no null"),
        ({"a": {"asks": "?", "family": "de"}}, "family is a list of different names"),
        ({"a": {"asks": "?", "family": ["de", "de"]}}, "family is a list of different names"),
    ],
)
def test_announcements_that_are_refused(run, claims, says, capsys):
    with pytest.raises(ValueError) as caught:
        announce({"good": {"asks": "Is it?"}} | claims)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not run.announced and capsys.readouterr().out == ""  # none of them, nothing shown


GOOD = {
    "one-feature": {"asks": "Is it?", "above": 0.3, "baselines": {"probe": 0.1}},
    "steers": {"asks": "Is it?", "null": "random directions"} | TWO,
}


@pytest.mark.parametrize(
    ("id", "estimate", "measured", "says"),
    [
        (
            "one-featur",
            part(),
            {},
            "claim 'one-featur' was not announced before the test split; did you mean one-feature?",
        ),
        ("one-feature/de", part(), {}, "does not fit what was announced: one-feature"),
        ("steers", part(family=2), {}, "does not fit what was announced: steers/de, steers/fr"),
        ("steers/es", part(family=2), {}, "'steers/es' does not fit what was announced: steers/de"),
        ("steers/de/fr", part(family=2), {}, "does not fit what was announced"),
        (
            "steers/de",
            part(),
            {},
            "claim 'steers/de' is one of 2: its intervals need family=2, not 1",
        ),
        ("one-feature", part(family=2), {}, "is one of 1: its intervals need family=1, not 2"),
        ("steers/de", part(family=2), {"null": against(family=1)}, "need family=2, not 1"),
        (
            "one-feature",
            part(),
            {"baselines": {"probe": part(family=5)}},
            "its intervals need family=1, not 5",
        ),
        (
            "steers/de",
            part(family=2),
            {"null": against(0.51, family=2)},
            "claim 'steers/de': the effect is 0.5, but 0.51 where it is set against the null; "
            "both must be of the same samples",
        ),
        (
            "one-feature",
            part(),
            {"null": against()},
            "claim 'one-feature' was announced without a null control; name it in 'null'",
        ),
        (
            "one-feature",
            part(),
            {"baselines": {"prob": part()}},
            "claim 'one-feature': baseline 'prob'; did you mean probe?",
        ),
    ],
)
def test_claims_that_are_refused(run, id, estimate, measured, says, capsys):
    announce(GOOD)
    capsys.readouterr()
    with pytest.raises(ValueError) as caught:
        claim(id, "It is", estimate, **measured)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert saved(run)["claims"] == [] and capsys.readouterr().out == ""


def test_a_claim_before_any_announcement(run):
    with pytest.raises(ValueError, match="claim 'a' was not announced before the test split"):
        claim("a", "It is", 1)


def test_two_claims_of_one_id_in_a_report(run):
    announce(GOOD)
    claim("one-feature", "It is", part())
    says = "claim 'one-feature' is made twice; give the second another id, as 'one-feature-2'"
    for again in (
        lambda: claim("one-feature", "It is again", part()),
        lambda: holds("one-feature", "It holds", True),
    ):
        with pytest.raises(ValueError, match=says):
            again()
    assert [c["sentence"] for c in saved(run)["claims"]] == ["It is"]


def test_what_was_judged_cannot_be_announced_differently(run):
    announce(GOOD)
    changed = {"one-feature": GOOD["one-feature"] | {"above": 0.2}}
    announce(changed)  # nothing was judged by it
    announce(GOOD)
    claim("one-feature", "It is", part())
    announce(GOOD)  # the same: the cell may run again
    announce({"another": {"asks": "Is it?"}})
    with pytest.raises(ValueError) as caught:
        announce(changed)
    assert str(caught.value) == (
        "claim 'one-feature' was judged before it was announced like this; begin a new run "
        "with qs.start_run"
    )
    claim("steers/de", "German", part(family=2))
    with pytest.raises(ValueError, match="claim 'steers' was judged before"):
        announce({"steers": GOOD["steers"] | {"family": ["de", "fr", "es"]}})
    assert run.announced["one-feature"].above == 0.3 and run.announced["steers"].m == 2


# ---- invariants


def test_invariants(run):
    holds("hooks-left", "No hook is left", True, 0)
    holds("identity", "x is x", np.bool_(True), value=torch.tensor(0.0), n=64)
    found = saved(run)["claims"]
    assert found == [
        {
            **{"id": "hooks-left", "sentence": "No hook is left", "kind": "invariant"},
            **{"badge": "HOLDS", "value": 0, "n": None},
        },
        {
            **{"id": "identity", "sentence": "x is x", "kind": "invariant"},
            **{"badge": "HOLDS", "value": 0.0, "n": 64},
        },
    ]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "invariant broken: x is x"),
        (0.51234, "invariant broken: x is x (value 0.512)"),
        (nan, "invariant broken: x is x (value nan)"),
    ],
)
def test_a_broken_invariant_is_recorded_shown_and_stops_the_run(run, value, says, capsys):
    with pytest.raises(ClaimFailed) as caught:
        holds("identity", "x is x", False, value)
    assert str(caught.value) == says and isinstance(caught.value, AssertionError)
    assert saved(run)["claims"][0]["badge"] == "BROKEN"
    assert capsys.readouterr().out.startswith("BROKEN     x is x")


# ---- what is recorded


def test_an_entry_holds_all_that_its_verdict_came_from(run):
    judge(run, {"above": 0.3}, part())
    assert saved(run)["claims"] == [
        {
            **{"id": "c", "sentence": "It is", "asks": "Is it?", "kind": "empirical"},
            **{"badge": "SHOWN", "value": 0.5, "interval": [0.4, 0.6], "n": 40, "groups": 20},
            **{"family": 1, "effective": None, "needs": "the interval lies above 0.3"},
            **{"why": "", "above": 0.3, "below": None, "null": None, "baselines": []},
            "matched": None,
        }
    ]


def test_numbers_that_are_not_finite_are_words(run):
    announce({name: {"asks": "Is it?", "above": 0.1, **RANDOM} for name in "abc"})
    claim("a", "It is", part(nan, nan, nan), null=against(nan, [nan] * 19, nan, nan))
    claim("b", "It is", part(inf, 0.5, inf))
    claim("c", "It is", part(0.5, -inf, inf))
    first, second, third = saved(run)["claims"]
    assert (first["value"], first["interval"]) == ("nan", None)
    assert first["null"]["mean"] == "nan"
    assert first["null"]["difference_interval"] == ["nan", "nan"]
    assert (second["value"], second["interval"]) == ("inf", [0.5, "inf"])
    assert third["interval"] == ["-inf", "inf"]
    assert {c["badge"] for c in (first, second, third)} == {"MEASURED"}


def test_a_number_alone_has_no_samples(run):
    for value in (3, 0.5, np.float32(0.5), torch.tensor(0.5)):
        run = start_run("01_load", "tiny")
        assert judge(run, {}, value)[0] == "MEASURED"
        entry = saved(run)["claims"][0]
        assert (entry["interval"], entry["n"], entry["groups"]) == (None, None, None)
        assert entry["value"] == float(value)


def test_estimates_and_nulls_of_the_room_fit_together(run):
    """From samples to a verdict, without a number made up on the way."""
    from qs_helpers.evidence import stats

    rng = np.random.default_rng(0)
    hits, nulls = rng.random(60) < 0.9, rng.random((19, 60)) < 0.1
    groups = np.arange(60) // 2
    null = stats.against(hits, nulls, groups=groups)
    probe = {"probe": difference(hits, rng.random(60) < 0.5, groups)}
    fields = {"above": 0.5, "null": "shuffled labels", "margin": 0.2, "baselines": {"probe": 0.1}}
    found = stats.share(hits, groups)
    assert judge(run, fields, found, null=null, baselines=probe) == ("SHOWN", "")
    entry = saved(run)["claims"][0]
    assert entry["effective"] == found.effective and entry["groups"] == 30
    assert entry["baselines"][0]["answer"] == "better"


# ---- what a review of the rule found


def test_an_id_of_a_family_that_is_none_is_refused(run):
    announce({"c": {"asks": "Is it?"}})
    with pytest.raises(ValueError, match="claim 'c/' does not fit what was announced: c"):
        claim("c/", "It is", 0.5)


def test_the_id_of_an_invariant_is_one_too(run):
    with pytest.raises(ValueError, match="claim id 'Bad Id!': use a-z, 0-9 and -"):
        holds("Bad Id!", "It holds", True)
    holds("no-op/tiny instruct", "It holds", True)


def test_a_null_draw_that_is_no_number_gives_no_verdict(run):
    null = against(draws=[0.1] * 18 + [nan])
    null = null._replace(difference=null.difference._replace(value=0.4))
    assert judge(run, RANDOM, part(), null=null) == ("MEASURED", "a null draw is no number")


@pytest.mark.parametrize("fields", [RANDOM | {"margin": -1}, {"baselines": {"probe": -0.1}}])
def test_a_margin_is_not_negative(run, fields):
    with pytest.raises(ValueError, match="claim 'c': a margin is a number from 0 on"):
        announce({"c": {"asks": "Is it?"} | fields})


def test_a_width_of_rounding_is_none(run):
    narrow = part(value=0.5, low=0.5 - 1e-16, high=0.5 + 1e-16)
    assert judge(run, {"above": 0.1}, narrow) == ("MEASURED", "an interval without width")


def test_one_group_is_said(run):
    alone = part(low=nan, high=nan)._replace(groups=1)
    assert judge(run, {"above": 0.1}, alone) == ("MEASURED", "1 group, and a verdict needs 8")


def test_between_two_thresholds_more_is_better_than_a_baseline(run):
    fields = {"above": 0.1, "below": 0.9, "baselines": {"probe": 0.1}}
    judge(run, fields, part(), baselines={"probe": part(value=0.2, low=0.1, high=0.3)})
    assert saved(run)["claims"][-1]["baselines"][0]["answer"] == "better"


def test_a_null_of_other_samples_is_refused(run):
    null = against()
    null = null._replace(difference=null.difference._replace(n=400))
    announce({"c": {"asks": "Is it?"} | RANDOM})
    with pytest.raises(ValueError, match="40 samples, but 400 where it is set against the null"):
        claim("c", "It is", part(), null=null)


def test_an_invariant_is_yes_or_no(run):
    with pytest.raises(ValueError, match="is no yes or no, but nan"):
        holds("c", "It holds", nan)


def test_a_threshold_and_a_null_of_opposite_directions_are_refused(run):
    with pytest.raises(ValueError, match="point in opposite directions"):
        announce({"c": {"asks": "Is it?", "below": 0.5} | RANDOM})


def test_a_baseline_without_width_is_undecided(run):
    flat = {"probe": part(value=0.4, low=0.4, high=0.4)}
    judge(run, {"baselines": {"probe": 0.1}}, part(), baselines=flat)
    assert saved(run)["claims"][-1]["baselines"][0]["answer"] == "undecided"


# ---- samples of headline claims

HITS, TEXTS = [True, False, True, True] * 10, [f"text {i // 2}" for i in range(40)]
SAMPLES = {"by": "share", "hits": HITS, "groups": TEXTS}


def test_samples_are_kept_beside_the_results(run):
    judge(run, {"above": 0.5, "family": ["de", "fr"]}, share(HITS, TEXTS, 2), "fr", samples=SAMPLES)
    kept = saved(run)["claims"][-1]["samples"]
    content = (run.folder / kept["file"]).read_bytes()
    assert kept["by"] == "share" and kept["file"] == "claims/c__fr.csv"
    assert kept["sha256"] == sha256(content).hexdigest()
    assert content.startswith(b'"hits","groups"\n1.0,"00000"\n0.0,"00000"\n1.0,"00001"\n')


def test_a_number_may_have_samples_too(run):
    judge(run, {}, 0.75, samples=SAMPLES)
    assert (run.folder / "claims" / "c.csv").is_file()


@pytest.mark.parametrize(("estimate", "samples"), [(part(), None), (part(nan), SAMPLES)])
def test_without_samples_or_a_value_nothing_is_kept(run, estimate, samples):
    judge(run, {}, estimate, samples=samples)
    assert "samples" not in saved(run)["claims"][-1] and not (run.folder / "claims").exists()


@pytest.mark.parametrize(
    ("estimate", "change", "says"),
    [
        (0.8, {}, "claim 'c': 0.8 recorded, 0.75 computed from the samples"),
        (mean(HITS), {}, r"claim 'c': 0.75 \[0.6, 0.875\] recorded, 0.75 \["),
        (share(HITS, TEXTS, 2), {}, "its intervals need family=1"),
        (share(HITS, TEXTS), {"by": "shares"}, "claim 'c': samples: by 'shares'; did you mean"),
        (share(HITS, TEXTS), {"hit": HITS}, "claim 'c': samples: .* keyword argument 'hit'"),
        (share(HITS, TEXTS), {"hits": HITS[:9]}, "samples: 9 hits, 40 groups; give as many"),
    ],
)
def test_samples_of_another_estimate_are_refused(run, estimate, change, says):
    with pytest.raises(ValueError, match=says):
        judge(run, {}, estimate, samples=SAMPLES | change)
    assert saved(run)["claims"] == [] and not (run.folder / "claims").exists()


def test_a_claim_that_is_made_twice_leaves_the_samples_of_the_first(run):
    judge(run, {}, share(HITS, TEXTS), samples=SAMPLES)
    before = (run.folder / "claims" / "c.csv").read_bytes()
    with pytest.raises(ValueError, match="made twice"):
        claim("c", "It is", share(HITS), samples={"by": "share", "hits": HITS})
    assert (run.folder / "claims" / "c.csv").read_bytes() == before
