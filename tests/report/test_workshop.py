"""One lesson becomes a reader's, a student's and a solution's notebook, and the builds are run."""

import re
from copy import deepcopy
from pathlib import Path

import nbformat
import pytest
from bad_lessons import good_lesson
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qs_helpers.report import workshop
from qs_helpers.report.run import find_notebooks

nbgrader = pytest.importorskip("nbgrader", reason="nbgrader is not installed: make workshop does")

ROOT = Path(__file__).resolve().parents[2]
LESSONS = [path for path in find_notebooks(ROOT / "notebooks") if workshop.exercises(path)]
TASK, EXERCISE, CHECK, LAST = range(1, 5)  # the cells of lesson()
HALVE = '''\
def halve(n: float) -> float:
    """Half of a number."""
    ### BEGIN SOLUTION
    return n / 2
    ### END SOLUTION'''
HALF = """\
assert halve(3) == 1.5, f"half of 3 is 1.5, not {halve(3)}"
### BEGIN HIDDEN TESTS
assert halve(0) == 0, "half of 0 is 0"
### END HIDDEN TESTS
print("right")"""


def tagged(tag: str, source: str):
    return new_code_cell(source, metadata={"tags": [tag]})


def lesson(edit=None) -> nbformat.NotebookNode:
    """A lesson with one exercise and one output, after an edit of its cells."""
    hint = "### Exercise 1\n\nHalve.\n\n<details><summary>Hint</summary>Divide.</details>"
    cells = [
        new_code_cell("x = 3", execution_count=1),
        new_markdown_cell(hint),
        tagged("exercise", HALVE),
        tagged("check", HALF),
        new_code_cell("print(x)", execution_count=4),
    ]
    cells[LAST].outputs = [new_output("stream", name="stdout", text="3\n")]
    if edit:
        edit(cells)
    return new_notebook(cells=cells, metadata={"qs": {"outputs": "digest"}})


def source(cell: int, text: str):
    return lambda cells: cells[cell].update(source=text)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a lesson and a notebook without exercises; what is built there is run."""
    params = tmp_path / "notebooks" / "params"
    params.mkdir(parents=True)
    (params / "tiny.yaml").write_text("common: {}\n")
    (tmp_path / "figures" / "01_lesson").mkdir(parents=True)
    (tmp_path / "figures" / "01_lesson" / "hero.png").write_bytes(b"png")
    nbformat.write(lesson(), params.parent / "01_lesson.ipynb")
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), params.parent / "02_log.ipynb")
    monkeypatch.setenv("QS_ROOT", str(tmp_path))
    return tmp_path


def put(project, edit):
    nbformat.write(lesson(edit), project / "notebooks" / "01_lesson.ipynb")


def built(project, name: str) -> nbformat.NotebookNode:
    path = project / "runs" / "workshop" / name / "notebooks" / "01_lesson.ipynb"
    return nbformat.read(path, as_version=4)


def test_a_student_gets_a_stub_and_keeps_the_rest():
    nb = lesson()
    before = deepcopy(nb)
    made = workshop.student(nb)
    stub = HALVE.splitlines()[:2] + ["    raise NotImplementedError"]
    assert made.cells[EXERCISE].source.splitlines() == stub
    assert made.cells[TASK] == nb.cells[TASK]
    assert [cell.metadata.get("tags") for cell in made.cells] == [
        cell.metadata.get("tags") for cell in nb.cells
    ]
    assert "HIDDEN" not in made.cells[CHECK].source and "half of 0" not in made.cells[CHECK].source
    assert made.cells[CHECK].source.startswith("assert") and "right" in made.cells[CHECK].source
    assert made.cells[LAST].outputs == [] and made.cells[LAST].execution_count is None
    assert nb == before, "changed in place"


def test_a_solution_has_solutions_and_no_outputs():
    made = workshop.solution(lesson())
    assert [cell.source for cell in made.cells] == [cell.source for cell in lesson().cells]
    assert made.cells[LAST].outputs == [] and "qs" not in made.metadata


def test_good_builds_have_no_problems(tmp_path):
    assert workshop.verify(workshop.solution(lesson()), tmp_path, stubs=False) == []
    assert workshop.verify(workshop.student(lesson()), tmp_path, stubs=True) == []


@pytest.mark.parametrize(
    ("build", "edit", "says"),
    [
        ("solution", source(CHECK, "assert halve(3) == 2, 'no'"), "cell 3, .*: AssertionError: no"),
        ("solution", source(LAST, "print(y)"), r"cell 4, 'print\(y\)': NameError: name 'y' is not"),
        ("student", source(LAST, "halve(x)"), r"cell 4, 'halve\(x\)': NotImplementedError: "),
        ("student", source(LAST, "1 / 0"), "cell 4, '1 / 0': ZeroDivisionError: division by zero"),
        ("student", source(CHECK, "halve(a)"), "cell 3, .*: NameError: name 'a' is not defined"),
        ("student", source(CHECK, "print('right')"), "cell 3, .*: the check accepts a stub"),
        ("student", source(EXERCISE, "halve = abs"), "cell 3, .*: AssertionError: half of 3"),
        ("student", source(0, "import os; os._exit(1)"), "DeadKernelError: Kernel died"),
    ],
    ids=[
        "wrong",
        "stops",
        "stub used",
        "other error",
        "in the check",
        "no check",
        "no stub",
        "dies",
    ],
)
def test_a_bad_build_is_reported_by_its_cell(build, edit, says, tmp_path):
    made = getattr(workshop, build)(lesson(edit))
    (problem,) = workshop.verify(made, tmp_path, stubs=build == "student")
    assert re.match(says, problem), problem


def test_every_folder_is_a_project(project, capsys):
    assert workshop.main([]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "01_lesson: 1 exercises, solution runs, student stops at its stubs only",
        "02_log: no exercises, left out",
    ]
    for name in ("reader", "student", "solution"):
        folder = project / "runs" / "workshop" / name
        assert (folder / "notebooks" / "params" / "tiny.yaml").is_file()
        assert (folder / "figures" / "01_lesson" / "hero.png").is_file()
        assert [path.name for path in folder.glob("notebooks/*.ipynb")] == ["01_lesson.ipynb"]
    assert [cell.source for cell in built(project, "reader").cells] == [
        cell.source for cell in lesson().cells
    ]
    assert built(project, "reader").cells[LAST].outputs == lesson().cells[LAST].outputs
    assert "NotImplementedError" in built(project, "student").cells[EXERCISE].source


def test_problems_stand_under_their_notebook(project, capsys):
    put(project, source(LAST, "halve(x)"))
    assert workshop.main(["--only", "01"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "01_lesson: 1 exercises, problems:"
    assert said[1].startswith("    student: cell 4, 'halve(x)': NotImplementedError")


def test_a_solution_that_does_not_end_is_a_problem(project, capsys):
    put(project, source(EXERCISE, HALVE.replace("    ### END SOLUTION", "")))
    assert workshop.main(["--no-run"]) == 1
    assert "student: no end solution statement found" in capsys.readouterr().out


def test_without_a_run_it_only_builds(project, capsys):
    put(project, source(LAST, "1 / 0"))
    assert workshop.main(["--no-run"]) == 0
    assert "01_lesson: 1 exercises, built, not run" in capsys.readouterr().out


def test_an_unknown_notebook_is_refused(project, capsys):
    assert workshop.main(["--only", "07"]) == 2
    assert capsys.readouterr().err.startswith("workshop: ")


def test_a_student_can_run_the_lesson_that_every_gate_accepts(tmp_path):
    assert workshop.verify(workshop.student(good_lesson()), tmp_path, stubs=True) == []


@pytest.mark.long
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_builds_of_a_lesson_are_good(path, tmp_path, capsys):
    assert workshop.problems_of(path, tmp_path, run=True) == []
