"""Projects that the tests of reports run on."""

import shutil
from pathlib import Path

import pytest
import yaml
from toy_project import count_runs, write_project

from qs_helpers.loading.catalog import TINY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path):
    """A project with two notebooks: 01 runs, 02 fails halfway; and 00, as committed."""
    return write_project(tmp_path)


@pytest.fixture
def counted(project):
    """The project, in which 01 counts its runs and 02 does not fail."""
    return count_runs(project)


@pytest.fixture
def private(tmp_path, monkeypatch):
    """A project with 01 and a preset "mine": copies of a model and a suite, under other names."""
    params = tmp_path / "notebooks" / "params"
    params.mkdir(parents=True)
    shutil.copy(ROOT / "notebooks" / "01_load.ipynb", params.parent)
    shutil.copytree(TINY["tiny"] / "model", tmp_path / "weights" / "my-model")
    shutil.copytree(TINY["tiny"] / "sae", tmp_path / "weights" / "my-saes")
    sections = yaml.safe_load((ROOT / "notebooks" / "params" / "tiny.yaml").read_text())
    sections = {name: sections[name] for name in ("common", "01_load")}
    sections["01_load"] |= {"LAYERS": [2, 3], "N_TEXTS": 8}
    weights = "../../weights"
    sections["scope"] = {"model": f"{weights}/my-model", "sae": f"{weights}/my-saes"}
    (params / "mine.yaml").write_text(yaml.safe_dump(sections))
    monkeypatch.setenv("QS_ROOT", str(tmp_path))
    return tmp_path
