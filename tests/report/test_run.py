"""The report: what it refuses, runs, keeps, shows and commits."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import jsonschema
import nbformat
import psutil
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_gates import GATES

from qs_helpers.report import __main__ as report
from qs_helpers.report import check as preflight
from qs_helpers.report import compare as comparison
from qs_helpers.report import pages
from qs_helpers.report import check as planning
from qs_helpers.report import run as reporting
from qs_helpers.report import run as runner
from qs_helpers.report.commit import MACHINE_PATH, clean
from qs_helpers.report.project import Preset, Run, STOPPED

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
ALT = 'Line from 1 to 3, with "quotes" & <signs>.'
TOY = [
    new_markdown_cell(
        "# 01 · A toy\n\n**Question.** Does *this*\nrun?\n\n**Writes.** One figure.\n\n"
        "[← previous](00_build_tiny_scope.ipynb) · [next →](09_nowhere.ipynb)"
    ),
    new_code_cell(
        'PRESET: str = "auto"  # scope\nN_TEXTS: int = None  # texts\n'
        'REVISION: str = "x"  # version',
        metadata={"tags": ["parameters"]},
    ),
    new_code_cell("import sys\nimport qs_helpers as qs\nimport matplotlib.pyplot as plt"),
    new_code_cell('qs.measured("01_toy")', metadata={"tags": ["results"]}),
    new_code_cell(
        'qs.start_run("01_toy", PRESET, {"N_TEXTS": N_TEXTS, "REVISION": REVISION})\n'
        'qs.record("executable", sys.executable.rsplit("/", 3)[1:])\n'
        'qs.record("provenance", {"model": {"sha256": "abc"}, "device": "cpu"})\n'
        'qs.claim("one is one", 1.0, (0.9, 1.1), True, n=20)'
    ),
    new_code_cell(
        "import pandas as pd\nfig, ax = plt.subplots()\nax.plot([1, 2, 3])\n"
        f'qs.save_figure(fig, "line", {ALT!r}, pd.DataFrame({{"y": [1, 2, 3]}}))'
    ),
]


@pytest.fixture
def project(tmp_path):
    """A project with two notebooks: 01 runs, 02 fails halfway; and 00, as committed."""
    params = tmp_path / "notebooks" / "params"
    params.mkdir(parents=True)
    (params / "tiny.yaml").write_text("01_toy:\n  N_TEXTS: 4\n  REVISION: x\n")
    folder = params.parent
    notebook = partial(new_notebook, metadata=KERNEL)
    nbformat.write(notebook(cells=TOY), folder / "01_toy.ipynb")
    broken = [
        new_markdown_cell("# 02 · Broken\n\n**Question.** Is it kept?"),
        new_code_cell('PRESET: str = "auto"  # scope', metadata={"tags": ["parameters"]}),
        new_code_cell("print('before')"),
        new_code_cell("raise KeyError('halfway')"),
    ]
    nbformat.write(notebook(cells=broken), folder / "02_broken.ipynb")
    built = new_code_cell("train()", execution_count=1)
    built.outputs = [new_output("stream", name="stdout", text="loss 0.01, as committed\n")]
    build = [new_markdown_cell("# 00 · The build\n\n**Question.** How?"), built]
    nbformat.write(notebook(cells=build), folder / "00_build_tiny_scope.ipynb")
    return tmp_path


def loads(html: str) -> list[str]:
    """What a browser would fetch for a page, data: addresses apart; links are not fetched."""
    found = re.findall(r"<(?:script|link|iframe|object|embed)[^>]*>", html)
    found += re.findall(r'src="(?!data:)[^"]*"', html)
    return found + re.findall(r"@import[^;]*|url\([^)]*\)", html)


def committed_changes(path, project):
    preset = Preset("tiny", project / "notebooks" / "params")
    return Run(path, preset, project / "runs" / "tiny").committed_changes()


def run(project, *argv, **options):
    """Plan and report as the command line does; (index, outcomes)."""
    given = options.pop("given", [])
    jobs = options.pop("jobs", None)
    plan = planning.plan_report("tiny", *argv, given=given, root=project, **options)
    return reporting.report(plan, jobs, quiet=True, fresh=options.get("fresh", False))


def test_report_runs_and_writes_pages(project, capfd):
    before, folder = dict(os.environ), Path.cwd()
    index, outcomes = run(project, given=[("N_TEXTS", "7"), ("REVISION", "12e5")])
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
        assert "SHOWN      one is one: 1 [0.9, 1.1], n = 20  [tiny scope]" in page
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
    index, _ = run(project, jobs=2)
    folder = Path(report.__file__).parent / "schemas"
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


def runs_of(project) -> int:
    """How often the first notebook ran: it counts in a file."""
    path = project / "count.txt"
    return len(path.read_text()) if path.is_file() else 0


@pytest.fixture
def counted(project):
    """The project, in which 01 counts its runs and 02 does not fail."""
    for name in ("01_toy", "02_broken"):
        path = project / "notebooks" / f"{name}.ipynb"
        nb = nbformat.read(path, as_version=4)
        if name == "01_toy":
            nb.cells.append(new_code_cell("open('../count.txt', 'a').write('x')"))
        else:
            nb.cells[-1].source = "1"
        nbformat.write(nb, path)
    return project


def edit_cell(project, number, text):
    path = project / "notebooks" / "01_toy.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[number].source = text
    nbformat.write(nb, path)


def test_what_is_done_is_not_run_again_until_something_changes(counted):
    index, _ = run(counted)
    _, outcomes = run(counted)
    assert [o.kept for o in outcomes] == ["unchanged, not run again"] * 2 and runs_of(counted) == 1
    assert "unchanged" in index.read_text()
    edit_cell(counted, 0, "# 01 · A toy, renamed\n\n**Question.** Really?")
    run(counted)  # prose is free, and shows at once
    assert runs_of(counted) == 1
    assert "A toy, renamed" in (index.parent / "01_toy.html").read_text()
    plan = planning.plan_report("tiny", root=counted)
    assert plan.stale == {"01_toy": "", "02_broken": ""}
    assert "01_toy: unchanged, not run again" in planning.plan_text(plan)

    (index.parent / "01_toy" / "figures" / "line.csv").write_text("y\n9\n")
    assert planning.plan_report("tiny", root=counted).stale["01_toy"] == "changed: its outputs"
    run(counted)
    edit_cell(counted, 6, "open('../count.txt', 'a').write('y')")
    assert planning.plan_report("tiny", root=counted).stale["01_toy"] == "changed: the code"
    run(counted)
    (counted / "notebooks" / "params" / "tiny.yaml").write_text(
        "01_toy:\n  N_TEXTS: 5\n  REVISION: x\n"
    )
    assert planning.plan_report("tiny", root=counted).stale == {
        "01_toy": "changed: the parameters",
        "02_broken": "",
    }
    run(counted)
    assert runs_of(counted) == 4
    run(counted, ["02"])  # the other notebook stays in the index, said to be older
    assert "an earlier run" in index.read_text()
    run(counted, fresh=True)
    assert runs_of(counted) == 5


def test_a_killed_run_goes_on_and_ends_the_same(counted):
    """kill -9 in the middle of the second notebook: the first is kept, the second is run whole."""
    path = counted / "notebooks" / "02_broken.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].source = (
        "import time, os\nimport qs_helpers as qs\n"
        "qs.start_run('02_broken', PRESET)\nqs.record('half', 1)\n"
        "open('../here.txt', 'w').close()\n"
        "time.sleep(0 if os.path.exists('../go.txt') else 600)\nqs.claim('whole', 2)"
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
    run(counted, fresh=True)  # without interruption
    assert claims(counted / "runs" / "tiny") == once and len(once) == 1


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
    assert planning.plan_report("tiny", root=counted).stale["01_toy"] == ""


@pytest.mark.parametrize("seconds", [0.2, 1.0, 3.0])
def test_an_early_interrupt_does_not_wait_for_the_notebooks(counted, seconds):
    """Ctrl-C while papermill is imported, while kernels start, while a cell runs."""
    path = counted / "notebooks" / "02_broken.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[2].source = "import time\ntime.sleep(600)"
    nbformat.write(nb, path)
    timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGINT])
    plan, begun = planning.plan_report("tiny", root=counted), time.monotonic()
    whole = runner.run_all

    def and_interrupt(*args):
        timer.start()
        return whole(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "run_all", and_interrupt)
        _, outcomes = reporting.report(plan, 2, quiet=True)
    assert outcomes[1].error == STOPPED and time.monotonic() - begun < 60
    assert kernels() == []


def kernels() -> list:
    """Processes that this one began and that are alive."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def test_a_page_that_cannot_be_written_is_that_notebooks_error(counted, monkeypatch):
    whole = pages.write_notebook_pages

    def broken(outcome, *rest):
        if outcome.run.stem == "01_toy":
            raise OSError("no space left")
        whole(outcome, *rest)

    monkeypatch.setattr(pages, "write_notebook_pages", broken)
    _, outcomes = run(counted)
    assert [o.error for o in outcomes] == ["OSError: no space left", None]


def test_an_earlier_run_is_not_called_current(counted):
    index, _ = run(counted)
    (counted / "notebooks" / "params" / "tiny.yaml").write_text(
        "01_toy:\n  N_TEXTS: 5\n  REVISION: x\n"
    )
    run(counted, ["02"])
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
    run(counted, jobs=2)
    assert kernels() == []


def test_run_folders_are_readable_or_short():
    root = Path("x")
    folder = planning.run_folder
    assert folder(root, "tiny", []).name == "tiny"
    assert folder(root, "tiny", [("B", "2"), ("A", "x")]).name == "tiny+A=x+B=2"
    assert re.fullmatch(r"tiny\+[0-9a-f]{8}", folder(root, "tiny", [("A", "[1, 2]")]).name)
    assert folder(root, "tiny", [("A", "/a")]) != folder(root, "tiny", [("A", "/b")])


def test_refresh_commits_clean_notebooks(project):
    """Only what is stale is run and replaced, and it passes what cleaning is for."""
    before = (project / "notebooks" / "02_broken.ipynb").read_text()
    run(project, refresh=True)
    path = project / "notebooks" / "01_toy.ipynb"
    nb = nbformat.read(path, as_version=4)
    assert [cell.cell_type for cell in nb.cells] == [cell.cell_type for cell in TOY]
    assert nb.cells[1].metadata == {"tags": ["parameters"]}
    assert nb.cells[3].outputs[0].text.startswith("Measured: ")
    assert "preset tiny" in nb.cells[3].outputs[0].text
    for gate in ("parameters", "measured", "executed", "quiet", "machine", "metadata", "pictures"):
        assert GATES[gate](nb, path) == []
    figures = sorted(p.name for p in (project / "figures" / "01_toy").iterdir())
    assert figures == ["line.csv", "line.png", "results.json"]
    assert (project / "notebooks" / "02_broken.ipynb").read_text() == before
    assert committed_changes(path, project) == []
    assert planning.plan_report("tiny", ["01"], refresh=True, root=project).runs == []
    assert run(project, ["01"], refresh=True)[1] == []  # nothing is stale

    (project / "figures" / "01_toy" / "line.csv").write_text("y\n9\n")
    assert committed_changes(path, project) == ["its outputs"]
    # A run that is there is committed without running again.
    _, (outcome,) = run(project, ["01"], refresh=True)
    assert outcome.kept and committed_changes(path, project) == []
    (project / "figures" / "01_toy" / "line.csv").write_text("y\n9\n")
    nb.cells[0].source += "\nMore prose."
    nbformat.write(nb, path)
    assert committed_changes(path, project) == ["its outputs"]
    nb.cells[5].source += "\n1 + 1"
    nbformat.write(nb, path)
    assert committed_changes(path, project) == ["the code", "its outputs"]


@pytest.mark.parametrize(
    ("given", "only", "message"),
    [
        ([("N_TEXT", "7")], None, "parameter 'N_TEXT' is in no notebook; did you mean N_TEXTS?"),
        ([("N_TEXTS", "many")], None, "N_TEXTS = 'many' is str, but int is expected"),
        ([("N_TEXTS", "1.5")], None, "N_TEXTS = 1.5 is float, but int is expected"),
        ([("PRESET", "tiny")], None, "parameter 'PRESET' is in no notebook"),
        ([("N_TEXTS", "7")], ["02"], "parameter 'N_TEXTS' is in no notebook; known: none"),
        ([], ["07"], "--only 07: known: 00_build_tiny_scope, 01_toy, 02_broken"),
        ([], ["01_tyo"], "--only 01_tyo: did you mean 01_toy?"),
    ],
)
def test_bad_arguments_run_nothing(project, monkeypatch, capsys, given, only, message):
    monkeypatch.setenv("QS_ROOT", str(project))
    argv = ["--preset", "tiny", *(["--only", *only] if only else [])]
    argv += [word for pair in given for word in ("-p", *pair)]
    assert report.main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (project / "runs").exists()


def test_unknown_preset_names_the_nearest(project):
    with pytest.raises(ValueError, match=r"preset 'tinny' has no file .*did you mean tiny"):
        planning.plan_report("tinny", root=project)


def test_command_line_exit_codes(project, monkeypatch, capsys):
    monkeypatch.setenv("QS_ROOT", str(project))
    monkeypatch.chdir(project)
    assert report.main(["--preset", "tiny", "--only", "02"]) == 1
    captured = capsys.readouterr()
    assert captured.out == str(Path("runs/tiny/index.html")) + "\n"
    assert "02_broken failed: KeyError: 'halfway'" in captured.err
    (project / "notebooks" / "02_broken.ipynb").unlink()
    assert report.main(["--preset", "tiny"]) == 0


def test_the_build_runs_only_when_it_is_named(project):
    folder = project / "notebooks"
    assert [p.stem for p in preflight.find_notebooks(folder)] == ["01_toy", "02_broken"]
    assert [p.stem for p in preflight.find_notebooks(folder, ["00"])] == ["00_build_tiny_scope"]


def test_no_notebooks_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no notebooks found"):
        preflight.find_notebooks(tmp_path)


def test_clean_refuses_paths_of_a_machine():
    cell = new_code_cell("1", outputs=[new_output("stream", text="see /home/someone/x.pt\n")])
    with pytest.raises(ValueError, match="cell 0 shows a path of this machine: /home/someone"):
        clean(new_notebook(cells=[cell]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        *(("in /home/a/b", True), ("'/root'", True), ("=/data/models/x", True)),
        *((r"C:\Users\me", True), ("https://a.b/c/d", False), ("runs/tiny/index.html", False)),
        *(("and/or", False), (r'"K:\n"', False), ("<b>a</b>", False), ("./a/b ../c/d", False)),
        *(("10 tokens/s", False), ("f'{folder}/a/b'", False), ("a / b / c", False)),
    ],
)
def test_machine_paths_are_told_from_others(text, found):
    assert bool(MACHINE_PATH.search(text)) == found


def test_page_drops_scripts_and_widgets():
    data = {
        "application/javascript": "alert(1)",
        "application/vnd.jupyter.widget-view+json": {"model_id": "a"},
        "text/plain": "plain words",
    }
    cell = new_code_cell("x", outputs=[new_output("display_data", data=data)])
    html = pages.notebook_page(new_notebook(cells=[cell]), "01_x", "mine", set())
    assert "<script" not in html and "tiny scope" not in html


def test_formulas_and_contents_need_no_script():
    text = "# A\n\n## Two *words*\n\nInline $x^2$, `$code$`, and\n\n$$\\frac{a}{b}$$\n\n### Deep"
    cells = [new_markdown_cell("# 01 · T"), new_markdown_cell(text)]
    html = pages.notebook_page(new_notebook(cells=cells), "01_x", "mine", set())
    soup = BeautifulSoup(html, "html.parser")
    assert [m["display"] for m in soup("math")] == ["inline", "block"]
    assert "$code$" in soup.find("code").text and loads(html) == []
    links = [a["href"] for a in soup.find("nav")("a")]
    assert links == ["#two-words", "#deep"]
    assert all(soup.find(id=link[1:]) for link in links)


def test_pages_tell_verdicts_in_words(project):
    index, _ = run(project, ["01"])
    soup = BeautifulSoup((index.parent / "01_toy.html").read_text(), "html.parser")
    claims = soup.find("table")
    assert claims.find("td").text == "shown" and "one is one" in claims.text
    assert "0.9 to 1.1" in claims.text


def test_comparing_two_checkouts(counted, tmp_path, monkeypatch):
    run(counted, ["01"])
    shutil.copytree(counted / "runs", tmp_path / "other" / "runs")
    path = tmp_path / "other" / "runs" / "tiny" / "01_toy" / "results.json"
    results = json.loads(path.read_text())
    results["claims"][0] |= {"value": 5.0, "interval": [4.9, "inf"]}
    path.write_text(json.dumps(results))
    folders = [counted / "runs" / "tiny", tmp_path / "other" / "runs" / "tiny"]
    page = comparison.compare_runs(folders, tmp_path / "page.html")
    assert "intervals lie apart" in page.read_text()


REFUSED = [
    (["--only", "07"], "known: 00_build"),
    (["--preset", "tinny"], "did you mean tiny"),
    (["-p", "SEDE", "1"], "did you mean SEED?"),
    (["-p", "N_TEXTS", "many"], "int is expected"),
    (["-p", "MODELS", "[tiny-instrct]"], "did you mean tiny-instruct"),
    (["-p", "SUITES", "[onw]"], "did you mean own"),
    (["-p", "LANGUAGES", "[]"], "LANGUAGES is empty"),
    (["-p", "PROMPTS", "[a/b]"], "give a csv or jsonl file, or two Hub datasets"),
    (["--only", "01", "--skip", "01"], "no notebook is left"),
]


@pytest.mark.parametrize(("argv", "words"), REFUSED)
def test_a_refusal_takes_no_longer_than_python_needs_to_start(argv, words):
    """Nothing heavy is imported before it: that, and not seconds, is what a test can hold."""
    code = (
        "import sys; from qs_helpers.report.__main__ import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'nbformat', 'papermill', 'nbconvert', 'pandas', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert ran.returncode == 2 and words in ran.stderr and ran.stdout == ""
    assert ran.stderr.count("\n") == 1


def test_help_and_dry_run(counted, monkeypatch, capsys):
    shown = subprocess.run(
        [sys.executable, "-m", "qs_helpers.report", "--help"], capture_output=True, text=True
    ).stdout
    flags = ("--preset", "--only", "--skip", "-p", "--fresh", "--jobs", "--refresh", "--dry-run")
    assert all(flag in shown for flag in (*flags, "--quiet", "examples:", "exit codes:"))
    monkeypatch.setenv("QS_ROOT", str(counted))
    assert report.main(["--dry-run", "--skip", "02"]) == 0
    text = capsys.readouterr().out
    assert "01_toy: run (no run yet)" in text and "N_TEXTS 4" in text and "02" not in text
    assert runs_of(counted) == 0 and not (counted / "runs").exists()
    assert report.main(["--jobs", "0"]) == 2


def test_runs_are_compared(counted, capsys):
    run(counted, ["01"])
    edit_cell(counted, 4, TOY[4].source.replace("1.0, (0.9, 1.1), True", "2.0, (1.9, 2.1), False"))
    edit_cell(counted, 5, TOY[5].source.replace("[1, 2, 3]", "[3, 2, 1]"))
    run(counted, ["01"], given=[("N_TEXTS", "9")])
    folders = [str(counted / "runs" / name) for name in ("tiny", "tiny+N_TEXTS=9")]
    assert report.main(["compare", *folders]) == 0
    page = counted / "runs" / "compare" / "tiny-vs-tiny+N_TEXTS=9.html"
    assert capsys.readouterr().out.strip() == os.path.relpath(page)
    soup = BeautifulSoup(page.read_text(), "html.parser")
    assert loads(page.read_text()) == []
    row = next(r for r in soup("tr") if "one is one" in r.text)
    cells = [cell.get_text(" ", strip=True) for cell in row("td")]
    assert cells == [
        *("one is one", "shown 1 [0.9, 1.1] n = 20", "not shown 2 [1.9, 2.1] n = 20"),
        "verdicts differ",
    ]
    assert "01_toy: parameters.N_TEXTS" in page.read_text()
    assert len(soup("img")) == 2 and all(image["alt"] for image in soup("img"))
    assert all((page.parent / a["href"]).is_file() for a in soup("a"))
    assert "Did not finish" not in page.read_text() and "In one run only" not in page.read_text()
    (counted / "runs" / "tiny" / "01_toy" / "stamp.json").unlink()  # as after kill -9
    assert report.main(["compare", *folders]) == 0
    assert "Did not finish</b> in tiny:" in page.read_text()
    assert report.main(["compare", folders[0]]) == 2
    assert report.main(["compare", folders[0], str(counted / "notebooks")]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((1.0, (0.9, 1.1)), (1.0, (0.9, 1.1)), ""),
        ((1.0, (0.9, 1.1)), (1.1, (1.0, 1.2)), ""),
        ((1.0, (0.9, 1.1)), (2.0, (1.9, 2.1)), "intervals lie apart"),
        ((1.0, None), (1.5, None), "values differ"),
        ((1.0, None), (1.0, None), ""),
        ((0.0, (0.0, 0.0)), (1.0, (1.0, 1.0)), "values differ"),
    ],
)
def test_what_counts_as_a_difference(first, second, words):
    entries = [{"badge": "SHOWN", "value": v, "interval": i} for v, i in (first, second)]
    assert comparison.differs(entries) == words
    assert comparison.differs([entries[0], None]) == "not in every run"
    other = entries[1] | {"badge": "NOT SHOWN"}
    assert comparison.differs([entries[0], other]) == "verdicts differ"
