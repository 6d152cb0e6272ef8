"""What a refresh commits, and what it refuses to."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from notebook_gates import GATES
from toy_project import TOY, run_report, toy_run

from qs_helpers.report.check import plan_report
from qs_helpers.report.refresh import MACHINE_PATH, clean


def test_refresh_commits_clean_notebooks(project):
    """Only what is stale is run and replaced, and it passes what cleaning is for."""
    before = (project / "notebooks" / "02_broken.ipynb").read_text()
    run_report(project, refresh=True)
    path = project / "notebooks" / "01_toy.ipynb"
    nb = nbformat.read(path, as_version=4)
    assert [cell.cell_type for cell in nb.cells] == [cell.cell_type for cell in TOY]
    assert nb.cells[1].metadata == {"tags": ["parameters"]}
    assert nb.cells[3].outputs[0].text.startswith("Measured: ")
    assert "preset tiny" in nb.cells[3].outputs[0].text
    table, claim, invariant = (o.data for o in nb.cells[4].outputs)
    assert table["text/markdown"].startswith("| claim | asks | SHOWN if |")
    assert claim["text/markdown"].startswith("> **SHOWN** one is one (1; 95 % interval 0.9 to 1.1")
    assert invariant["text/plain"] == "HOLDS      no hook is left (0). [tiny scope]"
    for gate in (
        "parameters",
        "measured",
        "claims",
        "executed",
        "quiet",
        "machine",
        "metadata",
        "pictures",
    ):
        assert GATES[gate](nb, path) == []
    figures = sorted(p.name for p in (project / "figures" / "01_toy").iterdir())
    assert figures == ["line.csv", "line.png", "results.json"]
    assert (project / "notebooks" / "02_broken.ipynb").read_text() == before
    assert toy_run(project).committed_changes() == []
    assert plan_report("tiny", ["01"], refresh=True, root=project).runs == []
    assert run_report(project, ["01"], refresh=True)[1] == []  # nothing is stale

    (project / "figures" / "01_toy" / "line.csv").write_text("y\n9\n")
    assert toy_run(project).committed_changes() == ["its outputs"]
    # A run that is there is committed without running again.
    _, (outcome,) = run_report(project, ["01"], refresh=True)
    assert outcome.kept and toy_run(project).committed_changes() == []
    (project / "figures" / "01_toy" / "line.csv").write_text("y\n9\n")
    nb.cells[0].source += "\nMore prose."
    nbformat.write(nb, path)
    assert toy_run(project).committed_changes() == ["its outputs"]
    nb.cells[5].source += "\n1 + 1"
    nbformat.write(nb, path)
    assert toy_run(project).committed_changes() == ["the code", "its outputs"]


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
