"""A preset whose model and SAEs are made here: what a report does first, and how often."""

import json
import shutil
from functools import partial

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from toy_project import KERNEL

from qs_helpers.loading import packaged
from qs_helpers.loading.catalog import TINY
from qs_helpers.loading.scope import load_scope
from qs_helpers.report import __main__ as command
from qs_helpers.report.check import plan_report, plan_text

READS = """
import json, pathlib
layers = json.loads((pathlib.Path("../runs/suites/toy") / "config.json").read_text())["num_layers"]
open("../order.txt", "a").write("01 ")
"""
TRAINS = f"""
import pathlib, shutil
import qs_helpers as qs
cfg = qs.settings("10_train_suite", PRESET)
open("../order.txt", "a").write("10 ")
if pathlib.Path("../broken").exists():
    raise RuntimeError("no memory left")
own = shutil.ignore_patterns("suite.json")  # which `mark` writes
shutil.copytree({str(TINY["tiny"] / "sae")!r}, cfg.OUT, ignore=own, dirs_exist_ok=True)
"""
TRAIN_PARAMETERS = """\
PRESET: str = "auto"  # scope
TEXTS: str = None  # texts
MODEL: str = None  # folder
LAYERS: list = None  # layers
OUT: str = None  # folder
K: int = None  # features"""


def write(path, parameters, code):
    cells = [new_markdown_cell(f"# {path.stem}\n\n**Question.** Why?")]
    cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook = partial(new_notebook, metadata=KERNEL)
    nbformat.write(notebook(cells=[*cells, new_code_cell(code)]), path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a notebook that reads a suite and one that trains it, on a preset "toy"."""
    params = tmp_path / "notebooks" / "params"
    params.mkdir(parents=True)
    write(params.parent / "01_read.ipynb", 'PRESET: str = "auto"\nLAYERS: list = None', READS)
    write(params.parent / "10_train_suite.ipynb", TRAIN_PARAMETERS, TRAINS)
    model, sae = "../../runs/models/toy", "../../runs/suites/toy"
    layers = [0, 1, 2, 3, 4, 5]
    sections = {
        "scope": {"model": model, "sae": sae},
        "prepare": {"model": "smollm2", "sae": "10_train_suite"},
        "01_read": {"LAYERS": [1, 4]},
        "10_train_suite": {"MODEL": model, "LAYERS": layers, "OUT": sae, "K": 4, "TEXTS": "pydoc"},
    }
    (params / "toy.yaml").write_text(yaml.safe_dump(sections))
    (params / "tiny.yaml").write_text("01_read:\n  LAYERS: [1]\n")
    monkeypatch.setenv("QS_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shop(project, monkeypatch):
    """The commands that would have fetched a model; each copies one there instead."""
    asked = []

    class Ended:
        returncode = 0

    def run(words, **_):
        asked.append(words[-3:])
        shutil.copytree(TINY["tiny"] / "model", words[-1])
        config = json.loads((project / "runs/models/toy/config.json").read_text())
        config["origin"] = packaged._origin("smollm2")
        (project / "runs/models/toy/config.json").write_text(json.dumps(config))
        return Ended

    monkeypatch.setattr(command.subprocess, "run", run)
    return asked


def order(project) -> str:
    path = project / "order.txt"
    return path.read_text().strip() if path.is_file() else ""


def change(project, **sections):
    path = project / "notebooks" / "params" / "toy.yaml"
    whole = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**whole, **sections}))


def test_from_nothing_the_model_comes_first_then_the_suite_then_the_rest(project, shop, capsys):
    assert command.main(["--preset", "toy", "--only", "01"]) == 0
    assert order(project) == "10 01"
    module, source, folder = shop[0]
    assert (module, source) == ("qs_helpers.loading.packaged", "smollm2") and len(shop) == 1
    assert folder == str(project / "runs" / "models" / "toy")
    said = capsys.readouterr()
    assert "first, once: HuggingFaceTB/SmolLM2-135M-Instruct is fetched" in said.err
    assert "first: 10_train_suite trains the SAEs (no run yet)" in said.err
    assert "memory: " in said.err  # checked once there is something to measure
    assert said.out == "runs/toy/index.html\n"
    assert "10_train_suite" in (project / "runs/toy/index.html").read_text()

    assert command.main(["--preset", "toy"]) == 0  # all of them: both are done
    assert order(project) == "10 01" and len(shop) == 1


def test_a_dry_run_says_it_and_makes_nothing(project, shop, capsys):
    assert command.main(["--preset", "toy", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "first, once: HuggingFaceTB" in said and "first: 10_train_suite trains" in said
    assert "01_read: run (no run yet)" in said and "10_train_suite: run (no run yet)" in said
    assert shop == [] and not (project / "runs").exists()


def test_a_suite_that_no_longer_fits_is_trained_again(project, shop):
    command.main(["--preset", "toy"])
    (project / "runs" / "suites" / "toy" / "layer3.sae.pt").unlink()
    assert plan_report("toy", ["01"], root=project).first == {
        "sae": "first: 10_train_suite trains the SAEs (changed: its outputs)"
    }
    assert command.main(["--preset", "toy", "--only", "01"]) == 0
    assert order(project) == "10 01 10"  # the same suite again: 01 need not run
    path = project / "notebooks" / "params" / "toy.yaml"
    train = yaml.safe_load(path.read_text())["10_train_suite"]
    change(project, **{"10_train_suite": train | {"K": 5}})
    assert "changed: the parameters" in plan_report("toy", root=project).first["sae"]
    assert command.main(["--preset", "toy", "--fresh"]) == 0
    assert order(project) == "10 01 10 10 01"  # once, though both plans say all of it


def test_what_cannot_be_made_stops_the_report_and_the_next_call_goes_on(project, shop, capsys):
    (project / "broken").touch()
    assert command.main(["--preset", "toy"]) == 1
    assert "10_train_suite failed: RuntimeError: no memory left" in capsys.readouterr().err
    assert order(project) == "10"
    suite = project / "runs" / "suites" / "toy"
    suite.mkdir(parents=True)  # as a training that was cut leaves it
    shutil.copy(TINY["tiny"] / "sae" / "layer0.sae.pt", suite)
    (project / "broken").unlink()
    assert command.main(["--preset", "toy"]) == 0
    assert order(project) == "10 10 01" and len(shop) == 1

    path = project / "notebooks" / "params" / "toy.yaml"
    train = yaml.safe_load(path.read_text())["10_train_suite"]
    change(project, **{"10_train_suite": train | {"TEXTS": "mine.jsonl"}})
    assert command.main(["--preset", "toy", "--only", "01"]) == 2
    assert "mine.jsonl: there is no such file" in capsys.readouterr().err
    change(project, **{"10_train_suite": train})

    shutil.rmtree(project / "runs" / "models")
    command.subprocess.run = lambda *_: type("Ended", (), {"returncode": 1})
    assert command.main(["--preset", "toy"]) == 1 and order(project) == "10 10 01"


def test_the_training_alone_runs_once_its_model_is_there(project, shop):
    assert command.main(["--preset", "toy", "--only", "10"]) == 0
    assert order(project) == "10" and len(shop) == 1
    shutil.rmtree(project / "runs" / "models")
    assert command.main(["--preset", "toy", "--only", "10", "--fresh"]) == 0
    assert order(project) == "10 10" and len(shop) == 2


def mark(folder):
    """A suite.json as a training leaves it: with it, the next one has nothing to do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.json").write_text("{}")
    return folder / "suite.json"


def test_afresh_the_suite_of_the_preset_is_trained_again_and_no_other(project, shop):
    command.main(["--preset", "toy"])
    done = mark(project / "runs" / "suites" / "toy")
    assert command.main(["--preset", "toy", "--only", "01", "--fresh"]) == 0
    assert done.is_file() and order(project) == "10 01 01"  # 10 was not asked for, and fits
    assert command.main(["--preset", "toy", "--fresh"]) == 0
    assert not done.exists() and order(project) == "10 01 01 10 01"

    mine, done = mark(project / "mine"), mark(done.parent)
    given = ["-p", "K", "3", "-p", "OUT", str(mine.parent)]
    assert command.main(["--preset", "toy", "--only", "10", "--fresh", *given]) == 0
    assert mine.is_file() and done.is_file()


def test_a_training_that_was_cut_off_goes_on_though_what_reads_it_is_run_afresh(project, shop):
    done = mark(project / "runs" / "suites" / "toy")  # some layers; 10 has no stamp yet
    assert command.main(["--preset", "toy", "--only", "01", "--fresh"]) == 0
    assert done.is_file() and order(project) == "10 01"


def test_a_suite_of_yours_is_trained_beside_that_of_the_preset(project, shop):
    given = ["-p", "OUT", str(project / "mine")]
    assert command.main(["--preset", "toy", "--only", "10", "01", *given]) == 0
    assert order(project) == "10 01 10"


def test_a_mistake_is_named_before_anything_is_made(project, shop, capsys):
    for argv, words in (
        (["-p", "LAYERS", "[7]"], "LAYERS has [7], but the SAEs are of layers 0 to 5"),
        (["-p", "LAYER", "1"], "parameter 'LAYER' is in no notebook; did you mean LAYERS?"),
        (["--only", "10", "-p", "K", "3"], "10_train_suite with other parameters writes another"),
        (["--only", "10", "-p", "K", "0"], "K = 0: it must be at least 1"),
    ):
        assert command.main(["--preset", "toy", *argv]) == 2
        assert words in capsys.readouterr().err
    assert shop == [] and order(project) == ""


def test_other_presets_and_other_parameters_leave_it_out(project):
    assert [run.stem for run in plan_report("tiny", root=project).runs] == ["01_read"]
    with pytest.raises(ValueError, match="tiny.yaml lacks (TEXTS|OUT) of 10_train_suite"):
        plan_report("tiny", ["10"], root=project)
    given = plan_report("toy", given=[("LAYERS", "[2]")], root=project)
    assert [run.stem for run in given.runs] == ["01_read"]  # of the same suite, made first
    assert set(given.first) == {"model", "sae"}
    asked = [("K", "3"), ("OUT", "./mine")]
    own = plan_report("toy", ["10"], given=asked, root=project)
    assert own.runs[0].values["OUT"] == str(project / "mine")
    assert "10_train_suite" in plan_text(own)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"modle": "smollm2"}, "toy.yaml, prepare: 'modle'; did you mean model?"),
        ({"model": "smolm2"}, "model 'smolm2': did you mean smollm2?"),
        ({"sae": "10_train"}, "prepare: sae '10_train'; did you mean 10_train_suite?"),
    ],
)
def test_a_section_that_says_something_else(project, section, words):
    change(project, prepare=section)
    with pytest.raises(ValueError) as refused:
        plan_report("toy", root=project)
    assert words in str(refused.value)


def test_a_notebook_that_comes_too_early_is_told_what_makes_them(project):
    way = "the model of toy is not made yet: make report PRESET=toy ARGS='--only 10'"
    with pytest.raises(FileNotFoundError, match=way):
        load_scope("toy")


def test_what_is_made_needs_a_folder(project):
    change(project, scope={"model": "lab/model", "sae": "../../runs/suites/toy"})
    with pytest.raises(ValueError, match="prepare: model needs a folder in scope: model"):
        plan_report("toy", root=project)
