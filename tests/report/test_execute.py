"""What a report runs, keeps and shows; interrupted, killed, and twice at once."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import jsonschema
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from toy_project import (
    ALT,
    count_runs,
    edit_cell,
    kernels,
    loads,
    run_report,
    runs_of,
    write_parameter,
    write_project,
)

from qs_helpers.loading.catalog import TINY
from qs_helpers.report import execute, pages
from qs_helpers.report.check import plan_report, plan_text
from qs_helpers.report.execute import report
from qs_helpers.report.run import STOPPED
from qs_helpers.tiny import corpus

ROOT = Path(__file__).resolve().parents[2]


def test_report_runs_and_writes_pages(project, capfd):
    before, folder = dict(os.environ), Path.cwd()
    index, outcomes = run_report(project, given=[("N_TEXTS", "7"), ("REVISION", "12e5")])
    assert [bool(o.error) for o in outcomes] == [False, True]
    assert index == project / "runs" / "tiny+N_TEXTS=7+REVISION=12e5" / "index.html"
    out = index.parent

    results = json.loads((out / "01_toy" / "results.json").read_text())
    assert results["params"] == {"N_TEXTS": 7, "REVISION": "12e5"}  # a revision stays text
    assert results["values"]["executable"] == sys.executable.rsplit("/", 3)[1:]
    assert results["seconds"] == pytest.approx(outcomes[0].seconds, abs=0.01)
    assert (out / "01_toy" / "figures" / "line.csv").read_text() == "y\n1\n2\n3\n"

    toy, coded = (out / "01_toy.html").read_text(), (out / "01_toy.code.html").read_text()
    broken = (out / "02_broken.html").read_text()
    for page in (toy, coded):
        assert "one is one (1; 95 % interval 0.9 to 1.1; n = 20 in 10 groups)" in page
        assert [image["alt"] for image in BeautifulSoup(page, "html.parser")("img")] == [ALT]
        assert "tiny scope: a test bed" in page and "09_nowhere" not in page
        assert "REVISION" in page and "12e5" in page and "model.sha256" in page
    assert "start_run" in coded and "start_run" not in toy
    assert 'href="00_build_tiny_scope.html"' in toy
    assert 'href="00_build_tiny_scope.code.html"' in coded
    assert "KeyError: 'halfway'" in re.sub("&#39;", "'", broken.split("<main>")[0])
    assert "before" in broken
    assert "halfway" in (out / "02_broken.ipynb").read_text()

    page = index.read_text()
    assert '<a href="01_toy.html">01 · A toy</a>' in page and "Does *this* run?" in page
    assert "1 shown" in page and "<b>failed</b>: KeyError: &#39;halfway&#39;" in page
    assert "model.sha256" in page and "The build" in page
    assert "loss 0.01, as committed" in (out / "00_build_tiny_scope.html").read_text()
    for path in out.glob("*.html"):
        assert loads(path.read_text()) == [], path.name
        assert "No description has been provided" not in path.read_text()

    assert capfd.readouterr().out == ""
    assert dict(os.environ) == before and Path.cwd() == folder


def test_results_fit_their_schemas(project):
    index, _ = run_report(project, jobs=2)
    folder = Path(execute.__file__).parent / "schemas"
    schemas = {p.name.split(".")[0]: json.loads(p.read_text()) for p in folder.glob("*.json")}
    whole = json.loads((index.parent / "results.json").read_text())
    jsonschema.validate(whole, schemas["report"])
    assert [n["status"] for n in whole["notebooks"]] == ["done", "failed"]
    assert whole["notebooks"][1]["error"] == "KeyError: 'halfway'" and whole["jobs"] == 2
    jsonschema.validate(
        json.loads((index.parent / "01_toy" / "results.json").read_text()), schemas["notebook"]
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(whole | {"preset": 3}, schemas["report"])


def test_what_is_done_is_not_run_again_until_something_changes(counted):
    index, _ = run_report(counted)
    _, outcomes = run_report(counted)
    assert [o.kept for o in outcomes] == ["unchanged, not run again"] * 2 and runs_of(counted) == 1
    assert "unchanged" in index.read_text()
    edit_cell(counted, 0, "# 01 · A toy, renamed\n\n**Question.** Really?")
    run_report(counted)  # prose is free, and shows at once
    assert runs_of(counted) == 1
    assert "A toy, renamed" in (index.parent / "01_toy.html").read_text()
    plan = plan_report("tiny", root=counted)
    assert plan.stale == {"01_toy": "", "02_broken": ""}
    assert "01_toy: unchanged, not run again" in plan_text(plan)

    (index.parent / "01_toy" / "figures" / "line.csv").write_text("y\n9\n")
    assert plan_report("tiny", root=counted).stale["01_toy"] == "changed: its outputs"
    run_report(counted)
    edit_cell(counted, 6, "open('../count.txt', 'a').write('y')")
    assert plan_report("tiny", root=counted).stale["01_toy"] == "changed: the code"
    run_report(counted)
    (counted / "notebooks" / "params" / "tiny.yaml").write_text(
        "01_toy:\n  N_TEXTS: 5\n  REVISION: x\n"
    )
    assert plan_report("tiny", root=counted).stale == {
        "01_toy": "changed: the parameters",
        "02_broken": "",
    }
    run_report(counted)
    assert runs_of(counted) == 4
    run_report(counted, ["02"])  # the other notebook stays in the index, said to be older
    assert "an earlier run" in index.read_text()
    run_report(counted, fresh=True)
    assert runs_of(counted) == 5


def test_saes_beside_the_results_are_kept_when_a_notebook_runs_again(counted):
    """A training there goes on where it was cut off; all else of the old run goes. Only afresh the
    trainer finds nothing done."""
    write_parameter(counted, "OUT", "")
    run_report(counted, ["01"])
    folder, elsewhere = counted / "runs" / "tiny" / "01_toy", counted / "elsewhere"
    (elsewhere / "kept.txt").parent.mkdir()
    (elsewhere / "kept.txt").touch()
    (folder / "link").symlink_to(elsewhere)
    (folder / "old").mkdir()
    (folder / ".hidden").touch()
    (folder / "suite" / "work").mkdir(parents=True)
    for name in ("work/layer2.state", "layer1.sae.pt", "suite.json"):
        (folder / "suite" / name).touch()
    assert plan_report("tiny", ["01"], root=counted).stale["01_toy"] == ""  # it is no output

    edit_cell(counted, 6, "open('../count.txt', 'a').write('y')")
    run_report(counted, ["01"])
    left = {path.name for path in folder.iterdir()}
    assert left == {"figures", "results.json", "stamp.json", "suite"} and runs_of(counted) == 2
    assert (folder / "suite" / "work" / "layer2.state").is_file()
    assert (folder / "suite" / "suite.json").is_file() and (elsewhere / "kept.txt").is_file()
    assert plan_report("tiny", ["01"], root=counted).stale["01_toy"] == ""

    run_report(counted, ["01"], fresh=True)
    left = {path.name for path in (folder / "suite").iterdir()}
    assert left == {"work", "layer1.sae.pt"} and runs_of(counted) == 3


def test_a_killed_run_goes_on_and_ends_the_same(counted):
    """kill -9 in the middle of the second notebook: the first is kept, the second is run whole."""
    path = counted / "notebooks" / "02_broken.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].source = (
        "import time, os\nimport qs_helpers as qs\n"
        "qs.start_run('02_broken', PRESET)\nqs.record('half', 1)\n"
        "open('../here.txt', 'w').close()\n"
        "time.sleep(0 if os.path.exists('../go.txt') else 600)\n"
        "qs.holds('whole', 'It is whole', True, 2)"
    )
    nbformat.write(nb, path)
    command = [sys.executable, "-m", "qs_helpers.report", "--jobs", "1", "-q"]
    process = subprocess.Popen(command, env=os.environ | {"QS_ROOT": str(counted)})
    deadline = time.monotonic() + 60
    while not (counted / "here.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    assert process.wait() == -9 and runs_of(counted) == 1
    assert (counted / "runs" / "tiny" / "02_broken" / "results.json").exists()  # half a run
    (counted / "go.txt").touch()
    assert subprocess.run(command, env=os.environ | {"QS_ROOT": str(counted)}).returncode == 0
    assert runs_of(counted) == 1

    def claims(folder):
        return json.loads((folder / "02_broken" / "results.json").read_text())["claims"]

    once = claims(counted / "runs" / "tiny")
    run_report(counted, fresh=True)  # without interruption
    assert claims(counted / "runs" / "tiny") == once and len(once) == 1


def killed_and_finished(project, seconds: float) -> dict:
    """What a report holds that was killed with kill -9 after some time, and begun again."""
    command = [sys.executable, "-m", "qs_helpers.report", "-q", "--jobs", "2"]
    env = os.environ | {"QS_ROOT": str(project)}
    process = subprocess.Popen(command, env=env)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    process.kill()
    process.wait()
    assert subprocess.run(command, env=env).returncode == 0
    return what_it_holds(project)


def what_it_holds(project) -> dict:
    """Claims, values, figures and pages of a report that ended well, without times."""
    out = project / "runs" / "tiny"
    states = json.loads((out / "results.json").read_text())["notebooks"]
    assert [n["status"] for n in states] == ["done", "done"]
    found = {}
    for path in sorted(out.glob("*/*.json")):
        data = json.loads(path.read_text("utf-8"))
        data = {k: v for k, v in data.items() if k in ("claims", "values", "figures", "helper")}
        found[str(path.relative_to(out))] = data
    found |= {path.name: path.read_bytes() for path in out.glob("*/figures/*")}
    found["pages"] = sorted(path.name for path in out.glob("*.html"))
    found["left"] = [path.name for path in out.rglob(".*") if path.name != ".lock"]
    assert all("</html>" in path.read_text("utf-8") for path in out.glob("*.html"))
    return found


MOMENTS = [pytest.param(n, marks=[pytest.mark.long] if n else []) for n in range(10)]


@pytest.mark.parametrize("number", MOMENTS)
def test_a_report_that_is_killed_at_any_moment_ends_as_one_that_is_not(
    counted, tmp_path_factory, number
):
    undisturbed = count_runs(write_project(tmp_path_factory.mktemp("undisturbed")))
    begun = time.monotonic()
    run_report(undisturbed, jobs=2)
    lasts = time.monotonic() - begun
    after = lasts * random.Random(number).random()
    once, twice = what_it_holds(undisturbed), killed_and_finished(counted, after)
    assert once == twice, f"killed after {after:.2f} of {lasts:.2f} seconds"


@pytest.mark.long
@pytest.mark.parametrize("first", [["--fresh"], ["--only", "01"], ["--only", "02"], []])
@pytest.mark.parametrize("second", [["--fresh"], ["--only", "02"], []])
def test_two_reports_into_one_folder_at_once_leave_it_whole(counted, first, second):
    command = [sys.executable, "-m", "qs_helpers.report", "-q"]
    env = os.environ | {"QS_ROOT": str(counted)}
    processes = [subprocess.Popen([*command, *argv], env=env) for argv in (first, second)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    run_report(counted)  # the rest, if neither was asked for it
    assert what_it_holds(counted)["left"] == []
    assert runs_of(counted) <= 2


def test_interrupt_leaves_a_run_that_can_go_on(counted):
    path = counted / "notebooks" / "02_broken.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].source = "import time\nopen('../here.txt', 'w').close()\ntime.sleep(600)"
    nbformat.write(nb, path)
    command = [sys.executable, "-m", "qs_helpers.report", "--jobs", "1"]
    env = os.environ | {"QS_ROOT": str(counted)}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    waited_for = counted / "here.txt", counted / "runs" / "tiny" / "01_toy" / "stamp.json"
    while not all(p.exists() for p in waited_for) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on from here" in err
    assert "Traceback" not in err
    out = counted / "runs" / "tiny"
    states = json.loads((out / "results.json").read_text())["notebooks"]
    assert [n["status"] for n in states] == ["done", "stopped"]
    assert plan_report("tiny", root=counted).stale["01_toy"] == ""


@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0])
def test_an_early_interrupt_does_not_wait_for_the_notebooks(counted, seconds):
    """Ctrl-C while papermill is imported, while kernels start, while a cell runs."""
    path = counted / "notebooks" / "02_broken.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[2].source = "import time\ntime.sleep(600)"
    nbformat.write(nb, path)
    timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGINT])
    plan, begun = plan_report("tiny", root=counted), time.monotonic()
    whole = execute.run_all

    def and_interrupt(*args):
        timer.start()
        return whole(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "run_all", and_interrupt)
        _, outcomes = report(plan, 2, quiet=True)
    assert outcomes[1].error == STOPPED and time.monotonic() - begun < 60
    assert kernels() == []


def test_ctrl_c_leaves_other_children_of_the_caller_alone(counted):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    path = counted / "notebooks" / "02_broken.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[2].source = "print('kept')"
    nb.cells[3].source = "open('../here.txt', 'w').close()\nimport time\ntime.sleep(600)"
    nbformat.write(nb, path)

    def interrupt():
        while not (counted / "here.txt").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    _, (outcome,) = run_report(counted, ["02"])
    assert outcome.status == "stopped" and [child.pid for child in kernels()] == [other.pid]
    assert "kept" in outcome.run.executed.read_text()  # what it had done
    other.kill()
    other.wait()


def test_a_page_that_cannot_be_written_is_that_notebooks_error(counted, monkeypatch):
    whole = pages.write_notebook_pages

    def broken(outcome, *rest):
        if outcome.run.stem == "01_toy":
            raise OSError("no space left")
        whole(outcome, *rest)

    monkeypatch.setattr(pages, "write_notebook_pages", broken)
    _, outcomes = run_report(counted)
    assert [o.error for o in outcomes] == ["OSError: no space left", None]


def test_an_earlier_run_is_not_called_current(counted):
    index, _ = run_report(counted)
    (counted / "notebooks" / "params" / "tiny.yaml").write_text(
        "01_toy:\n  N_TEXTS: 5\n  REVISION: x\n"
    )
    run_report(counted, ["02"])
    assert "an earlier run; since then changed: the parameters" in index.read_text()


def test_two_reports_at_once_do_not_disturb_each_other(counted):
    """The same run twice: one waits and finds it done. Other parameters: another folder."""
    env = os.environ | {"QS_ROOT": str(counted)}
    command = [sys.executable, "-m", "qs_helpers.report", "-q"]
    given = [[], [], ["-p", "N_TEXTS", "9"]]
    processes = [subprocess.Popen([*command, *more], env=env) for more in given]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert runs_of(counted) == 2
    folders = sorted(path.name for path in (counted / "runs").iterdir())
    assert folders == ["tiny", "tiny+N_TEXTS=9"]
    for folder, n in zip(folders, (None, 9), strict=True):
        results = json.loads((counted / "runs" / folder / "01_toy" / "results.json").read_text())
        assert results["params"]["N_TEXTS"] == n


def test_kernels_end_with_their_notebooks(counted):
    run_report(counted, jobs=2)
    assert kernels() == []


def test_a_report_on_a_private_preset(private):
    index, outcomes = report(plan_report("mine"), quiet=True)
    assert [o.error for o in outcomes] == [None]
    results = json.loads((index.parent / "01_load" / "results.json").read_text())
    assert results["provenance"]["name"] == "mine"
    assert results["provenance"]["model"]["source"].endswith("my-model")
    assert results["params"]["LAYERS"] == [2, 3]
    page = (index.parent / "01_load.html").read_text()
    assert "tiny scope: a test bed" not in page and "[tiny scope]" not in page


@pytest.mark.long
def test_04_on_a_relative_file_and_06_on_a_model_of_ones_own(private):
    """Copies of a model that refuses; a file beside the preset; small sizes."""
    weights, params = private / "weights", private / "notebooks" / "params"
    for part, name in (("model", "my-model"), ("sae", "my-saes")):
        shutil.rmtree(weights / name)
        shutil.copytree(TINY["tiny-instruct"] / part, weights / name)
    for name in ("04_toxicity", "06_abliteration_comparison"):
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", params.parent)
    rows = [
        {"text": t.text, "toxic": int(t.label == "toxic"), "language": "en"}
        for t in corpus.remarks("en", "discovery", 60)
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (params / "mine.jsonl").write_text(lines)
    tiny = yaml.safe_load((ROOT / "notebooks" / "params" / "tiny-instruct.yaml").read_text())
    sections = yaml.safe_load((params / "mine.yaml").read_text())
    sections["04_toxicity"] = tiny["04_toxicity"] | {"DATA": "mine.jsonl", "LAYERS": [2]}
    sections["06_abliteration_comparison"] = tiny["06_abliteration_comparison"] | {
        **{"MODELS": ["mine"], "SUITES": ["own"], "LANGUAGES": ["en"], "N_TEST": 24},
        **{"N_TRAIN": 24, "LAYERS": [1, 2], "REDRAWS": 3},
    }
    (params / "mine.yaml").write_text(yaml.safe_dump(sections))
    plan = plan_report("mine", ["04", "06"])
    index, outcomes = report(plan, quiet=True)
    assert [o.error for o in outcomes] == [None, None]
    for name in ("04_toxicity", "06_abliteration_comparison"):
        results = json.loads((index.parent / name / "results.json").read_text())
        assert "my-model" in json.dumps(results["provenance"]) and results["claims"]
    assert plan_report("mine", ["04", "06"]).stale == dict.fromkeys(
        ["04_toxicity", "06_abliteration_comparison"], ""
    )
    (params / "mine.jsonl").write_text(lines.replace("the", "a"))
    (weights / "my-saes" / "note.txt").write_text("other weights")
    assert plan_report("mine", ["04", "06"]).stale == dict.fromkeys(
        ["04_toxicity", "06_abliteration_comparison"], "changed: the data"
    )
