"""What is refused before anything runs."""

import re
from pathlib import Path

import pytest
import yaml

from qs_helpers.presets import settings
from qs_helpers.report.check import plan_report, run_folder


def test_run_folders_are_readable_or_short():
    root = Path("x/runs")
    folder = run_folder
    assert folder(root, "tiny", []).name == "tiny"
    assert folder(root, "tiny", [("B", "2"), ("A", "x")]).name == "tiny+A=x+B=2"
    assert folder(root, "tiny", [("A", "[1, 2]")]).name == "tiny+A=1,2"
    assert re.fullmatch(r"tiny\+[0-9a-f]{8}", folder(root, "tiny", [("A", "x:y")]).name)
    assert folder(root, "tiny", [("A", "/a")]) != folder(root, "tiny", [("A", "/b")])


def test_unknown_preset_names_the_nearest(project):
    with pytest.raises(ValueError, match=r"preset 'tinny' has no file .*did you mean tiny"):
        plan_report("tinny", root=project)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": {"modle": "x"}}, "mine.yaml, scope: 'modle'; did you mean model"),
        ({"scope": {"k": 0}}, "mine.yaml, scope: k = 0: at least 1"),
        ({"scope": {"device": "gpu"}}, "scope: device 'gpu'; known: cpu"),
        ({"scope": {"dtype": "bf16"}}, "scope: dtype 'bf16'; did you mean bfloat16"),
        ({"common": {"SEDE": 1}}, "mine.yaml, common: SEDE; did you mean SEED?"),
        ({"01_laod": {}}, "mine.yaml: section '01_laod'; did you mean 01_load?"),
        ({"scope": {"thinking": "no"}}, "thinking = 'no' is str, but bool is expected"),
        ({"scope": {"model": 3}}, "mine.yaml, scope: model = 3 is int, but str is expected"),
        ({"01_load": {"TEXTS": "tiny", "LAYERS": [2]}}, "mine.yaml lacks N_TEXTS of 01_load"),
        (
            {"01_load": {"TEXTS": "tiny", "LAYERS": [2], "N_TEXTS": "8"}},
            "01_load: N_TEXTS = '8' is str, but int",
        ),
        (
            {"01_load": {"TEXTS": "tiny", "LAYERS": [9], "N_TEXTS": 8}},
            r"01_load: LAYERS has \[9\], but the SAEs",
        ),
        (
            {"01_load": {"TEXTS": "tiny", "LAYERS": [2], "N_TEXTS": 8, "N_TXTS": 8}},
            "N_TXTS; did you mean N_TEXTS?",
        ),
    ],
)
def test_mistakes_in_a_private_preset_are_named_before_anything_runs(private, change, message):
    params = private / "notebooks" / "params"
    sections = yaml.safe_load((params / "mine.yaml").read_text())
    if "scope" in change:
        change = {"scope": sections["scope"] | change["scope"]}
    (params / "mine.yaml").write_text(yaml.safe_dump(sections | change))
    with pytest.raises((ValueError, TypeError), match=message):
        plan_report("mine")


def test_a_training_needs_no_suite_and_may_train_any_layer():
    """10 reads a model of its own. With the preset's OUT empty, its suite is in the report."""
    given = [("LAYERS", "[31]"), ("K", "16")]
    plan = plan_report("tiny", ["10"], given=given)
    assert not [line for line in plan.needs if "tiny" in line]
    assert not [problem for problem in plan.problems if "31" in problem]
    assert plan.runs[0].values["LAYERS"] == [31] and plan.runs[0].values["OUT"] == ""


def test_no_model_is_trained_under_the_name_of_another():
    with pytest.raises(ValueError, match="MODEL 'x/y' needs a preset of its own"):
        plan_report("tiny", ["10"], given=[("MODEL", "x/y")])
    with pytest.raises(ValueError, match="MODEL 'tiny' needs a preset of its own"):
        plan_report("smollm2", ["10"], given=[("MODEL", "tiny")])
    with pytest.raises(ValueError, match="MODEL 'x/y' needs a preset of its own"):
        settings("10_train_suite", "tiny", MODEL="x/y")  # by hand
