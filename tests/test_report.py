"""The report: strict parameters before a run, pages without network, failures kept and shown."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_gates import GATES

from qs_helpers import pages, report
from qs_helpers.refresh import MACHINE_PATH, clean

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


def test_report_runs_and_writes_pages(project, capfd, monkeypatch):
    monkeypatch.setattr(report, "tqdm", partial(report.tqdm, disable=False))
    before = dict(os.environ)
    index, outcomes = report.report(
        "tiny", given=[("N_TEXTS", "7"), ("REVISION", "12e5")], root=project
    )
    assert [bool(o.error) for o in outcomes] == [False, True]
    assert index == project / "runs" / "tiny" / "index.html"
    out = index.parent

    results = json.loads((out / "01_toy" / "results.json").read_text())
    assert results["params"] == {"N_TEXTS": 7, "REVISION": "12e5"}  # a revision stays text
    assert results["values"]["executable"] == sys.executable.rsplit("/", 3)[1:]
    assert results["seconds"] == pytest.approx(outcomes[0].seconds, abs=0.01)
    assert (out / "01_toy" / "figures" / "line.csv").read_text() == "y\n1\n2\n3\n"

    toy, broken = (out / "01_toy.html").read_text(), (out / "02_broken.html").read_text()
    assert "SHOWN      one is one: 1 [0.9, 1.1], n = 20  [tiny scope]" in toy
    assert [image["alt"] for image in BeautifulSoup(toy, "html.parser")("img")] == [ALT]
    assert '<details class="code">' in toy and "tiny scope: a test bed" in toy
    assert 'href="00_build_tiny_scope.html"' in toy and "09_nowhere" not in toy
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

    captured = capfd.readouterr()
    assert captured.out == ""
    assert "02_broken: 100%" in captured.err and captured.err.count("\n") <= 2
    assert dict(os.environ) == before


def test_refresh_commits_clean_notebooks(project):
    """Only the notebooks that ran are replaced, and they pass what cleaning is for."""
    before = (project / "notebooks" / "02_broken.ipynb").read_text()
    report.report("tiny", refresh=True, root=project)
    nb = nbformat.read(project / "notebooks" / "01_toy.ipynb", as_version=4)
    assert [cell.cell_type for cell in nb.cells] == [cell.cell_type for cell in TOY]
    assert nb.cells[1].metadata == {"tags": ["parameters"]}
    assert nb.cells[3].outputs[0].text.startswith("Measured: ")
    assert "preset tiny" in nb.cells[3].outputs[0].text
    for gate in ("parameters", "measured", "executed", "quiet", "machine", "metadata", "pictures"):
        assert GATES[gate](nb, project / "notebooks" / "01_toy.ipynb") == []
    figures = sorted(p.name for p in (project / "figures" / "01_toy").iterdir())
    assert figures == ["line.csv", "line.png", "results.json"]
    assert (project / "notebooks" / "02_broken.ipynb").read_text() == before


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
    monkeypatch.setattr(report, "project_root", lambda: project)
    argv = ["--preset", "tiny", *(["--only", *only] if only else [])]
    argv += [word for pair in given for word in ("-p", *pair)]
    assert report.main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (project / "runs").exists()


def test_unknown_preset_names_the_nearest(project):
    with pytest.raises(ValueError, match=r"preset 'tinny' has no file .*did you mean tiny"):
        report.report("tinny", root=project)


def test_command_line_exit_codes(project, monkeypatch, capsys):
    monkeypatch.setattr(report, "project_root", lambda: project)
    monkeypatch.chdir(project)
    assert report.main(["--preset", "tiny", "--only", "02"]) == 1
    captured = capsys.readouterr()
    assert captured.out == str(Path("runs/tiny/index.html")) + "\n"
    assert "02_broken failed: KeyError: 'halfway'" in captured.err
    (project / "notebooks" / "02_broken.ipynb").unlink()
    assert report.main(["--preset", "tiny"]) == 0


def test_the_build_runs_only_when_it_is_named(project):
    folder = project / "notebooks"
    assert [p.stem for p in report.find_notebooks(folder)] == ["01_toy", "02_broken"]
    assert [p.stem for p in report.find_notebooks(folder, ["00"])] == ["00_build_tiny_scope"]


def test_no_notebooks_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no notebooks found"):
        report.find_notebooks(tmp_path)


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
    html = pages.notebook_page(new_notebook(cells=[cell]), "mine", set())
    assert "<script" not in html and "tiny scope" not in html


def test_help_is_complete():
    run = [sys.executable, "-m", "qs_helpers.report", "--help"]
    shown = subprocess.run(run, capture_output=True, text=True, check=True)
    assert all(flag in shown.stdout for flag in ("--preset", "--only", "-p", "--refresh"))
    assert shown.stderr == ""
