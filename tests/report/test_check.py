"""What is refused before anything runs."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from qs_helpers.presets import preset_names, preset_values, settings
from qs_helpers.report import check, needs
from qs_helpers.report.__main__ import main
from qs_helpers.report.check import (
    check_together,
    plan_report,
    plan_text,
    run_folder,
    unwritable,
)
from qs_helpers.report.run import TRAIN, Preset
from qs_helpers.tiny.lexicon import LANGUAGES
from qs_helpers.writing import SCRIPTS_OF

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "notebooks" / "params"


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
    given = [("LAYERS", "[1]"), ("K", "16")]  # of the preset's own suite: 2 and 4
    plan = plan_report("tiny", ["10"], given=given)
    assert not [line for line in plan.needs if "tiny" in line]
    assert not plan.problems
    assert plan.runs[0].values["LAYERS"] == [1] and plan.runs[0].values["OUT"] == ""


def test_no_model_is_trained_under_the_name_of_another():
    with pytest.raises(ValueError, match="MODEL 'x/y' needs a preset of its own"):
        plan_report("tiny", ["10"], given=[("MODEL", "x/y")])
    with pytest.raises(ValueError, match="MODEL 'tiny' needs a preset of its own"):
        plan_report("smollm2", ["10"], given=[("MODEL", "tiny")])
    with pytest.raises(ValueError, match="MODEL 'x/y' needs a preset of its own"):
        settings("10_train_suite", "tiny", MODEL="x/y")  # by hand


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LAYERS:\n  - 2\n  - 3", "LAYERS: [2, 3, 2]", "mine.yaml, 01_load: LAYERS has 2 twice"),
        ("- 2\n", "- true\n", r"mine.yaml, 01_load: LAYERS\[0\] = True is bool, but int"),
        ("- 2\n", "- 2.0\n", r"mine.yaml, 01_load: LAYERS\[0\] = 2.0 is float, but int"),
        ("- 2\n", "- two\n", r"mine.yaml, 01_load: LAYERS\[0\] = 'two' is str, but int"),
        ("- 2\n", "- 02\n", "mine.yaml, line 3, LAYERS: 02 is one number to some readers"),
        ("N_TEXTS: 8", "N_TEXTS: 1:30", "mine.yaml, line 5, N_TEXTS: 1:30 is a number to some"),
        (
            "N_TEXTS: 8",
            "N_TEXTS: 8\n  N_TEXTS: 9",
            "mine.yaml, line 6: N_TEXTS is there twice, first in line 5",
        ),
        ("common:", "1: {}\ncommon:", "mine.yaml, line 7: 1 is no name, but a number"),
        ("common:", "01_load: {}\ncommon:", "mine.yaml, line 7: 01_load is there twice"),
    ],
)
def test_what_a_file_says_twice_or_in_another_type_is_one_line(private, capsys, old, new, message):
    path = private / "notebooks" / "params" / "mine.yaml"
    text = "01_load:\n  LAYERS:\n  - 2\n  - 3\n  N_TEXTS: 8\n  TEXTS: tiny\ncommon:\n  SEED: 0\n"
    text += path.read_text()[path.read_text().index("scope:") :]
    path.write_text(text.replace(old, new, 1))
    assert main(["--preset", "mine", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert re.match(f"qs-report: {message}", said) and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LANGUAGES", "[no, en]", "LANGUAGES = '[no, en]': line 1: no is a truth value"),
        ("LAYERS", "[1, 010]", "LAYERS = '[1, 010]': line 1: 010 is one number"),
        ("LAYERS", "[2, 2]", "LAYERS has 2 twice"),
        ("LAYERS", "[2", "LAYERS = '[2': line 1: expected .* lists are written"),
        ("N_TEXTS", "1_000", "N_TEXTS = '1_000': line 1: 1_000 is a number to some"),
        ("STRENGTHS", "[0.0, .inf]", "STRENGTHS = .*: a finite number is needed"),
        ("STRENGTHS", "[0.0, x]", "STRENGTHS.* = 'x' is str, but float is expected"),
        ("TOPIC", "[soup, 3]", "TOPIC.* = 3 is int, but str is expected"),
    ],
)
def test_values_on_the_command_line_are_read_as_strictly(name, value, message):
    only = [{"STRENGTHS": "03", "TOPIC": "02", "LANGUAGES": "04"}.get(name, "01")]
    with pytest.raises((ValueError, TypeError), match=message.replace("[", r"\[")):
        plan_report("tiny", only, given=[(name, value)])


NOT_TOGETHER = [
    ("01", {"LAYERS": "[-1]"}, "LAYERS has .-1., but the SAEs are of layers 0 to 5"),
    ("02", {"N_TEXTS": "1"}, "N_TEXTS = 1: at least 2 is needed here"),
    ("03", {"STRENGTHS": "[]"}, "STRENGTHS = ..: they must rise, with 0 and one above it"),
    ("03", {"STRENGTHS": "[0.5, 1.0]"}, "STRENGTHS = .*: they must rise, with 0"),
    ("03", {"STRENGTHS": "[0.5, 0.0]"}, "STRENGTHS = .*: they must rise"),
    ("03", {"STRENGTHS": "[-1.0, 0.0]"}, "STRENGTHS = .*one above it"),
    ("03", {"LANGUAGES": "[en, fr]"}, "LANGUAGES has en, which the others are compared with"),
    ("03", {"LANGUAGES": "[de]"}, "LANGUAGES has de, and TEXTS has no such texts"),
    ("03", {"MAX_NEW_TOKENS": "1"}, "MAX_NEW_TOKENS = 1: at least 2 is needed here"),
    ("03", {"N_TEXTS": "1"}, "N_TEXTS = 1: at least 2"),
    ("04", {"LANGUAGES": "[en, de]"}, "LANGUAGES has de, and DATA has no such texts"),
    ("05", {"LANGUAGES": "[en]"}, "LANGUAGES has en"),
    ("05", {"LANGUAGES": "[fr]"}, "LANGUAGES needs one of ru, ja, zh"),
    ("05", {"LANGUAGES": "[zh]", "TEXTS": "pydoc"}, "LANGUAGES has zh, and TEXTS has no such"),
    ("05", {"LAYERS": "[]"}, "LAYERS names none, and at least 1 is needed here"),
    ("05", {"LAYERS": "[5]"}, "STEPS above 0 needs one of LAYERS below the last"),
    ("06", {"MODELS": "[]"}, "MODELS names none"),
    ("06", {"REFUSAL_TOKENS": "1"}, "REFUSAL_TOKENS = 1: at least 5"),
    ("06", {"MODELS": "[a/b]"}, "SUITES has own, but a/b is no preset: name a suite instead"),
    ("10", {"LAYERS": "[6]"}, "LAYERS = .6., but tiny has 0 to 5"),
    ("10", {"LAYERS": "[-1]"}, "LAYERS = .-1., but tiny has 0 to 5"),
    ("10", {"LAYERS": "[2, 2]"}, "LAYERS has 2 twice"),
    ("10", {"K": "9", "D_SAE": "8"}, "K = 9 is more than D_SAE = 8"),
    ("10", {"N_TEXTS": "1"}, "N_TEXTS = 1: at least 8"),
]


@pytest.mark.parametrize(("number", "given", "message"), NOT_TOGETHER)
def test_what_would_not_reach_the_last_cell_is_said_before(number, given, message):
    with pytest.raises(ValueError, match=message):
        plan_report("tiny", [number], given=list(given.items()))


def test_every_preset_goes_together():
    for name in preset_names(PARAMS):
        preset = Preset(name, PARAMS)
        for path in (ROOT / "notebooks").glob("[01]?_*.ipynb"):
            if path.stem[:2] != "00" and (path.stem != TRAIN or TRAIN in preset.sections):
                check_together(path.stem, preset_values(path.stem, name, PARAMS), preset)


def test_languages_of_the_sources_that_come_with_the_project():
    assert check.LANGUAGES_OF["tiny"] == LANGUAGES == tuple(SCRIPTS_OF)


def test_a_place_that_cannot_be_written_is_said_before_anything_runs(counted, monkeypatch):
    def problems(**how):
        return plan_report("tiny", root=counted, **how).problems

    runs = counted / "runs"
    assert problems() == []
    runs.write_text("")
    said = "set QS_RUNS to a folder that can be"
    assert problems() == [f"{runs} is no folder, and results go to {runs / 'tiny'}: {said}"]
    monkeypatch.setenv("QS_RUNS", str(counted / "elsewhere"))
    assert problems() == [] and plan_report("tiny", root=counted).out == counted / "elsewhere/tiny"
    (counted / "elsewhere").mkdir()
    (counted / "elsewhere" / "tiny").write_text("")
    assert "elsewhere/tiny is no folder" in problems()[0]
    monkeypatch.setenv("QS_RUNS", str(runs / "below"))
    assert f"{runs} is no folder" in problems()[0]
    monkeypatch.delenv("QS_RUNS")
    runs.unlink()
    locked = {counted, counted / "figures"}
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) not in locked)
    assert problems() == [f"{counted} cannot be written, and results go to {runs / 'tiny'}: {said}"]
    runs.mkdir()
    assert problems() == []
    assert unwritable(counted / "new" / "deep") == f"{counted} cannot be written"
    (counted / "figures").mkdir()
    assert problems(refresh=True) == [
        f"{counted / 'figures'} cannot be written, and --refresh writes figures/: leave it out, or "
        "change who may"
    ]


def test_the_folder_of_a_suite_that_cannot_be_written_is_said_too(tmp_path):
    (tmp_path / "taken").write_text("")
    plan = plan_report("tiny", ["10"], given=[("OUT", str(tmp_path / "taken" / "suite"))])
    said = "is no folder, and OUT is to be written there: give another folder"
    assert plan.problems == [f"{tmp_path / 'taken'} {said}"]


def test_a_plan_says_what_a_training_takes_and_where_it_does_not_fit(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(needs.hub, "open_source", refuse)
    monkeypatch.setattr(needs, "_gpu_free", lambda: None)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9))
    for only in (["10"], ["01"]):  # 01 has it trained first
        plan = plan_report("qwen3.6-27b", only)
        (line,) = (line for line in plan.needs if line.startswith("10_train_suite: "))
        assert "50,000,000 tokens at 1 layer" in line and "about 2 hours on an H100" in line
        assert line in plan_text(plan)
        (problem,) = (problem for problem in plan.problems if "on the disk of" in problem)
        assert "runs/suites/qwen3.6-27b, and 1.0 GB are free there: give fewer TOKENS" in problem
    given = [("TOKENS", "1000"), ("D_SAE", "1024"), ("OUT", "mine")]
    own = plan_report("qwen3.6-27b", ["10"], given=given)  # and not that of the preset first
    said = [line.split(" at 1 layer")[0] for line in own.needs if line.startswith("10_train")]
    assert said == ["10_train_suite: 1,000 tokens"]
    assert not [problem for problem in own.problems if "on the disk of" in problem], "yours fits"
    for preset in ("smollm2", "qwen3-8b-l50"):  # to be fetched first; nothing to train
        assert not any(line.startswith("10_") for line in plan_report(preset).needs)
