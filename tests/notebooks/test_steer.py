"""Notebook 03 on what it was not made for: models that write nothing, features that never fire, one
prompt, a language that the model never read, strengths that no number holds."""

import copy
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_own_data import SCRIPTS, badges, run

import qs_helpers as qs
from qs_helpers.generation import Arm, sweep
from qs_helpers.loading.catalog import TINY
from qs_helpers.tiny import corpus

ROOT = Path(__file__).resolve().parents[2]
OPENINGS = [t.text for t in corpus.continuations("en", "validation", 12)]
OPTIONS = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def instruct():
    return qs.load_scope("tiny-instruct")


def cell(holding: str) -> str:
    cells = json.loads((ROOT / "notebooks" / "03_steer.ipynb").read_text("utf-8"))["cells"]
    (source,) = (source for c in cells if holding in (source := "".join(c["source"])))
    return source


def prompts_of(scope) -> dict:
    """What the cell that chooses the form of a prompt defines."""
    records = [SimpleNamespace(text=text) for text in OPENINGS]
    space = {"qs": qs, "scope": scope, "options": OPTIONS, "openings": lambda split: records}
    exec(cell("def in_its_turn"), space)
    return space


def test_a_chat_model_that_writes_without_its_template_is_asked_without_it(instruct):
    space = prompts_of(instruct)
    assert space["form"] is space["plain"] and space["validation"] == OPENINGS


def test_a_chat_model_that_ends_at_once_is_asked_in_its_template(instruct, monkeypatch, capsys):
    start = instruct.chat("Continue this text.")

    def mute(scope, prompts, *args, **options):
        """Nothing without the template, as some chat models do."""
        return [" and so on" if prompt.startswith(start) else "" for prompt in prompts]

    monkeypatch.setattr(qs, "generate", mute)
    space = prompts_of(instruct)
    assert space["form"] is space["in_its_turn"] and space["written"] == len(OPENINGS)
    assert space["validation"] == [start + text for text in OPENINGS]
    assert f"continues 0 of {len(OPENINGS)} openings: used" in capsys.readouterr().out


@pytest.mark.parametrize("template", [True, False])
def test_a_model_that_ends_at_once_is_refused_before_anything_is_steered(
    instruct, monkeypatch, template
):
    """Every token is a stop token."""
    theirs = copy.deepcopy(instruct.model.generation_config)
    theirs.eos_token_id = list(range(len(instruct.tokenizer)))
    monkeypatch.setattr(instruct.model, "generation_config", theirs)
    if not template:
        monkeypatch.setattr(instruct.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match=f"continues 0 of {len(OPENINGS)} openings: give others"):
        prompts_of(instruct)
    assert qs.hooks_left(instruct.model) == 0


@pytest.mark.parametrize("strength", [1e30, float("inf"), float("nan")])
def test_a_strength_beyond_floats_is_refused_and_leaves_no_hook(instruct, strength):
    scales = qs.scales(instruct, OPENINGS, [2])
    arms = [Arm(2, a, qs.random_directions(1, 128)[0]) for a in (0.5, strength)]
    with pytest.raises(ValueError, match="makes an edit of norm .* stay below"):
        sweep(instruct, OPENINGS, scales, arms, **OPTIONS)
    assert qs.hooks_left(instruct.model) == 0


def test_a_tokenizer_that_pads_on_the_right_writes_the_same(tmp_path):
    model = Path(shutil.copytree(TINY["tiny"] / "model", tmp_path / "model"))
    config = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    config["padding_side"] = "right"
    (model / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    steer, found = {}, []
    for folder in (TINY["tiny"] / "model", model):
        scope = qs.load_scope(model=folder, sae=TINY["tiny"] / "sae", device="cpu", check=False)
        steer = {
            3: qs.add(qs.random_directions(1, 128)[0], 0.5, qs.scales(scope, OPENINGS, [3])[3])
        }
        for size in (1, len(OPENINGS)):
            found.append(qs.generate(scope, OPENINGS, steer, batch_size=size, **OPTIONS))
        assert qs.hooks_left(scope.model) == 0
    assert len({len(ids) for ids in scope.ids(OPENINGS)}) > 1  # so there is padding
    assert found[0] == found[1] == found[2] == found[3]


SMALL = ["LANGUAGES", "[fr]", "STRENGTHS", "[0.0, 0.5, 1.0]", "MAX_NEW_TOKENS", "8"]
SMALL += ["N_TEXTS", "40", "LAYER", "3"]


def small(**given) -> list[str]:
    pairs = [*zip(SMALL[::2], SMALL[1::2], strict=True), *given.items()]
    return [word for name, value in pairs for word in ("-p", name, str(value))]


@pytest.mark.long
def test_one_prompt_and_a_feature_that_never_fires_give_no_verdict(tmp_path):
    scope = qs.load_scope("tiny")
    texts = [t.text for t in corpus.documents(400, "discovery", 0, ["story"], ("en", "fr"))]
    silent = int(
        np.flatnonzero((qs.read_texts(scope, texts, [3], ["peak"])[3].peak == 0).all(0))[0]
    )
    given = small(FEATURE=silent, N_PROMPTS=1, N_VALIDATION=1)
    results, printed = run(tmp_path, "03_steer", *given)
    found = badges(results)
    assert f"feature {silent} fires in none of these texts; it is steered all the same" in printed
    assert found["no-hooks-left"] == "HOLDS"
    assert {found[name] for name in found if "/" in name} == {"MEASURED"}
    assert "beyond-random/yours" in found
    assert "nan" not in results["answer"]["text"]


@pytest.mark.long
def test_openings_in_a_script_that_the_model_never_read(tmp_path):
    draw = random.Random(0)
    lines = {" ".join(draw.choices(SCRIPTS["th"].split(), k=6)) for _ in range(80)}
    (tmp_path / "thai.txt").write_text("\n".join(sorted(lines)), "utf-8")
    given = small(PROMPTS=tmp_path / "thai.txt", N_PROMPTS=10, N_VALIDATION=8)
    results, printed = run(tmp_path, "03_steer", *given)
    found = badges(results)
    assert found["no-hooks-left"] == "HOLDS" and "reaches/fr" in found
    assert "beyond-random/direction" in found and "nan" not in results["answer"]["text"]
