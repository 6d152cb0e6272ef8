"""Every committed notebook keeps to the form, and each gate rejects the defect it is for."""

from pathlib import Path

import nbformat
import notebook_gates
import pytest
import yaml
from bad_notebooks import BAD, GOOD, PROSE, good
from notebook_gates import GATES

from qs_helpers.report.run import TRAIN

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PRESETS = sorted((ROOT / "notebooks" / "params").glob("*.yaml"))


def read(path):
    return nbformat.read(path, as_version=4)


def parameter_names(path) -> set[str]:
    cell = notebook_gates.code_cells(read(path))[0]
    return {line.split(":")[0] for line in cell.source.splitlines() if line.strip()}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_passes(path, gate):
    assert GATES[gate](read(path), path) == []


def failing(nb) -> dict[str, str]:
    """Gates that reject a notebook in the place of the good one, with what they say."""
    found = {name: gate(nb, GOOD) for name, gate in GATES.items()}
    return {name: "; ".join(problems) for name, problems in found.items() if problems}


def test_good_notebook_passes():
    assert failing(good()) == {}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_notebook_fails_at_its_gate_only(bad):
    nb = good()
    bad.edit(nb)
    said = failing(nb)
    assert list(said) == [bad.gate] and bad.says in said[bad.gate]


def test_every_gate_has_a_bad_notebook():
    assert {bad.gate for bad in BAD} == set(GATES)
    assert len({bad.name for bad in BAD}) == len(BAD)


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
    notebooks = {path.stem: parameter_names(path) for path in NOTEBOOKS}
    for notebook, values in sections.items():
        if notebook in notebooks:
            assert set(values) - notebooks[notebook] == set(), notebook
    for notebook, names in notebooks.items():
        if not notebook.startswith("00") and (notebook != TRAIN or TRAIN in sections):
            known = common | set(sections.get(notebook) or {})
            assert names - known - {"PRESET"} == set(), notebook
