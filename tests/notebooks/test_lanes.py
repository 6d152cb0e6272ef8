"""The official presets on models of their families, small and random: every notebook reaches its
last cell, and what such a preset may lack is named before anything runs. See tests/lanes.py."""

import pytest
from lanes import FAMILIES, Lane, write_saes

from qs_helpers.loading.catalog import get_group

NOTEBOOKS = ["01", "02", "03", "04", "05", "06", "07", "08", "09"]
EVERY_DAY = "qwen3"  # the family of make test; the others are long
# In one language and without training it takes a minute; the whole is long.
SHORT = {"05_code_switching": {"LANGUAGES": ["zh"], "LAYERS": [20], "STEPS": 0}}


@pytest.fixture(scope="module")
def lane(request, tmp_path_factory):
    family, thinking, change = request.param
    with Lane(tmp_path_factory.mktemp(family) / "lane", family, thinking, change) as lane:
        yield lane


def case(notebook: str, family: str, thinking: bool = False, change=None):
    short = family == EVERY_DAY and not thinking and (notebook != "05" or change)
    marks = [] if short else [pytest.mark.long]
    name = f"{family}-{notebook}" + "-thinking" * thinking + "-short" * bool(change)
    return pytest.param((family, thinking, change), notebook, marks=marks, id=name)


CASES = [case(notebook, family) for family in FAMILIES for notebook in NOTEBOOKS]
CASES += [case("05", EVERY_DAY, change=SHORT)]
# The notebooks that use the chat template, where the switch changes every prompt.
CASES += [case(nn, family, True) for family in ("qwen3", "qwen3.5") for nn in ("03", "05", "06")]


@pytest.mark.parametrize(("lane", "notebook"), CASES, indirect=["lane"])
def test_every_notebook_reaches_its_last_cell(lane, notebook):
    results, _ = lane.run(notebook)
    badges = {claim["id"]: claim["badge"] for claim in results["claims"]}
    hooks = [badge for name, badge in badges.items() if "hooks" in name and "left" in name]
    assert hooks == ["HOLDS"] and results["answer"]["text"]
    assert results["preset"] == lane.preset
    # 06 tells it of each case, and random weights make none: they refuse nothing.
    told = [results["provenance"]] if notebook != "06" else [*results["provenance"].values()]
    wanted = lane.sections["scope"]["thinking"]
    assert all(part["tokenizer"]["thinking"] == wanted for part in told)
    # Random weights know nothing of toxic remarks.
    assert badges.get("one-feature") != "SHOWN"
    text = results["answer"]["text"]
    assert not any(word in text for word in ("nan", "None", "inf "))


# ---- what is named before a notebook runs


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """A lane that is asked what it cannot do."""
    with Lane(tmp_path_factory.mktemp("qwen3") / "lane", "qwen3") as lane:
        yield lane


def refused(lane, *given: str, code: int = 2) -> str:
    done = lane.report(*given)
    assert done.returncode == code, done.stdout + done.stderr
    assert not list(lane.folder.glob("runs/*/*.ipynb")) or code == 1
    return done.stderr


def test_layers_that_the_suite_lacks_are_named(qwen3):
    said = refused(qwen3, "--only", "01", "-p", "LAYERS", "[6, 28, 40]")
    assert "LAYERS has [28, 40], but Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50 has SAEs" in said
    assert "of layers 0 to 27" in said


def test_a_dataset_that_has_moved_is_named(qwen3):
    moved = "textdetox/multilingual_toxicity_dataset"
    there = qwen3.hub.repos.pop(moved)
    try:
        said = refused(qwen3, "--only", "04")
    finally:
        qwen3.hub.repos[moved] = there
    assert f"the Hub has no repo {moved}, or it is private; check its name" in said


def test_a_suite_of_another_depth_is_named(qwen3):
    suite = get_group(qwen3.preset).sae_repo
    there, other = qwen3.hub.repos[suite], qwen3.folder / "hub" / "deeper"
    qwen3.hub.repos[suite] = write_saes(other, 30, 50)
    try:
        said = refused(qwen3, "--only", "01", code=1)
    finally:
        qwen3.hub.repos[suite] = there
    assert f"{suite} was trained on 30 layers, but Qwen/Qwen3-1.7B-Base has 28" in said


def test_thinking_of_a_model_whose_template_has_no_switch_is_named(tmp_path):
    with Lane(tmp_path / "lane", "qwen3", thinking=True) as lane:
        plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
        (lane.folder / "hub" / "model" / "chat_template.jinja").write_text(plain)
        said = refused(lane, "--only", "01", code=1)
    assert "thinking=True, but the chat template of Qwen/Qwen3-1.7B-Base never asks for" in said
