"""Every committed notebook keeps to the form, and each gate rejects the defect it is for."""

from pathlib import Path

import nbformat
import notebook_gates
import pytest
import yaml
from notebook_gates import GATES

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PRESETS = sorted((ROOT / "notebooks" / "params").glob("*.yaml"))
FIXTURES = Path(__file__).parent / "fixtures"
BAD = sorted(FIXTURES.glob("bad_*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def parameter_names(path) -> set[str]:
    cell = notebook_gates.code_cells(read(path))[0]
    return {line.split(":")[0] for line in cell.source.splitlines() if line.strip()}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_passes(path, gate):
    assert GATES[gate](read(path), path) == []


@pytest.mark.parametrize("gate", GATES)
def test_good_notebook_passes(gate):
    path = FIXTURES / "good.ipynb"
    assert GATES[gate](read(path), path) == []


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_notebook_fails_at_its_gate_only(path):
    nb, wanted = read(path), path.stem.removeprefix("bad_")
    failing = [name for name, gate in GATES.items() if gate(nb, path)]
    assert failing == [name for name in GATES if wanted.split("_")[0] == name]


def test_every_gate_has_a_bad_notebook():
    assert {path.stem.split("_")[1] for path in BAD} == set(GATES)


def test_notebook_without_cells_is_rejected():
    nb = nbformat.v4.new_notebook()
    assert notebook_gates.opening(nb, FIXTURES / "empty.ipynb") == ["cell 0 must be markdown"]


def test_heavy_picture_is_rejected():
    nb = read(FIXTURES / "good.ipynb")
    nb.cells[5].outputs[0].data["image/png"] = "A" * 4 * 50_001
    problems = notebook_gates.pictures(nb, FIXTURES / "good.ipynb")
    assert problems == ["a picture has 150 kB, above 150"]


def test_code_in_markdown_is_no_heading():
    nb = read(FIXTURES / "good.ipynb")
    nb.cells[4].source += "\n```python\n# a comment\n```"
    assert notebook_gates.headings(nb, FIXTURES / "good.ipynb") == []


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_preset_names_are_parameters(preset):
    """What a preset says for a notebook, that notebook can receive; and it says all of it."""
    sections = yaml.safe_load(preset.read_text(encoding="utf-8"))
    common = set(sections.pop("common", None) or {})
    notebooks = {path.stem: parameter_names(path) for path in NOTEBOOKS}
    for notebook, values in sections.items():
        if notebook in notebooks:
            assert set(values) - notebooks[notebook] == set(), notebook
    for notebook, names in notebooks.items():
        if not notebook.startswith("00"):
            known = common | set(sections.get(notebook) or {})
            assert names - known - {"PRESET"} == set(), notebook
