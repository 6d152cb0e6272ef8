"""Every committed notebook keeps to the form, and each gate rejects the defect it is for."""

from pathlib import Path

import nbformat
import notebook_gates
import pytest
import yaml
from bad_lessons import (
    BAD_LESSONS,
    CHECK,
    EXERCISE,
    FIGURE,
    GOOD_LESSON,
    code,
    good_lesson,
    number_cells,
)
from bad_notebooks import BAD, GOOD, PROSE, good
from nbformat.v4 import new_code_cell
from notebook_gates import GATES

from qs_helpers.report.run import TRAIN, declared

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PRESETS = sorted((ROOT / "notebooks" / "params").glob("*.yaml"))


def read(path):
    return nbformat.read(path, as_version=4)


def parameter_names(path) -> set[str]:
    cells = notebook_gates.code_cells(read(path))
    cell = next(cell for cell in cells if "parameters" in notebook_gates.tags(cell))
    return {line.split(":")[0] for line in cell.source.splitlines() if line.strip()}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_passes(path, gate):
    assert GATES[gate](read(path), path) == []


def failing(nb, path=GOOD) -> dict[str, str]:
    """Gates that reject a notebook in the place of a good one, with what they say."""
    found = {name: gate(nb, path) for name, gate in GATES.items()}
    return {name: "; ".join(problems) for name, problems in found.items() if problems}


def test_good_notebook_passes():
    assert failing(good()) == {}


def test_good_lesson_passes():
    assert failing(good_lesson(), GOOD_LESSON) == {}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_notebook_fails_at_its_gate_only(bad):
    nb = good()
    bad.edit(nb)
    said = failing(nb)
    assert list(said) == [bad.gate] and bad.says in said[bad.gate]


@pytest.mark.parametrize("bad", BAD_LESSONS, ids=lambda bad: bad.name)
def test_bad_lesson_fails_at_its_gate_only(bad):
    nb = good_lesson()
    bad.edit(nb)
    said = failing(nb, GOOD_LESSON)
    assert list(said) == [bad.gate] and bad.says in said[bad.gate]


def test_every_gate_has_a_bad_notebook():
    assert {bad.gate for bad in BAD + BAD_LESSONS} == set(GATES)
    for table in (BAD, BAD_LESSONS):
        assert len({bad.name for bad in table}) == len(table)


def test_an_answer_is_of_the_notebook_itself():
    (said,) = notebook_gates.measured(good_lesson(), Path("notebooks/01_load.ipynb"))
    assert said.startswith("the first code cell must be qs.answer")


def test_an_exercise_may_have_something_given_and_two_checks():
    nb = good_lesson()
    given = new_code_cell("numbers = [1, 2, 6]")
    more = new_code_cell("assert mean_of([1]) == 1, 'of one number'", metadata={"tags": ["check"]})
    nb.cells[EXERCISE : CHECK + 1] = [given, *nb.cells[EXERCISE : CHECK + 1], more]
    number_cells(nb)
    assert failing(nb, GOOD_LESSON) == {}


SAVED = 'qs.save_figure(fig, "heads", "", counts)'
BOTH = f'def draw():\n    {SAVED}\n    print(f"{{n}} heads")\n\n\ndraw()'


@pytest.mark.parametrize(
    "source",
    [f'{SAVED}\nprint(f"{{n}} heads")', f'{SAVED}\ndisplay(Markdown(f"{{n}} heads"))', BOTH],
    ids=["printed", "Markdown", "by a function"],
)
def test_a_sentence_may_be_of_any_kind(source):
    nb = good_lesson()
    code(FIGURE, source)(nb)
    code(FIGURE + 1, "heads = 1")(nb)
    assert failing(nb, GOOD_LESSON) == {}


def test_notebook_without_cells_is_rejected():
    nb = nbformat.v4.new_notebook()
    assert notebook_gates.opening(nb, GOOD) == ["cell 0 must be markdown"]


def test_code_in_markdown_is_no_heading():
    nb = good()
    nb.cells[PROSE].source += "\n```python\n# a comment\n```"
    assert failing(nb) == {}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_preset_names_are_parameters(preset):
    """What a preset says for a notebook, that notebook can receive; and it says all of it. Only
    presets that train their own suite have a section for 10."""
    sections = yaml.safe_load(preset.read_text(encoding="utf-8"))
    common = set(sections.pop("common", None) or {})
    notebooks = {path.stem: {*declared(path)} for path in NOTEBOOKS}
    for notebook, values in sections.items():
        if notebook in notebooks:
            assert set(values) - notebooks[notebook] == set(), notebook
    for notebook, names in notebooks.items():
        if not notebook.startswith("00") and (notebook != TRAIN or TRAIN in sections):
            known = common | set(sections.get(notebook) or {})
            assert names - known - {"PRESET"} == set(), notebook
