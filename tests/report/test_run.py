"""The notebooks of a project, and the record of one notebook's run."""

import json

import pytest
import yaml
from toy_project import toy_run

from qs_helpers import presets
from qs_helpers.report.__main__ import main
from qs_helpers.report.run import declared, find_notebooks


def test_the_build_runs_only_when_it_is_named(project):
    folder = project / "notebooks"
    assert [p.stem for p in find_notebooks(folder)] == ["01_toy", "02_broken"]
    assert [p.stem for p in find_notebooks(folder, ["00"])] == ["00_build_tiny_scope"]


def test_no_notebooks_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no notebooks found"):
        find_notebooks(tmp_path)


def test_a_run_knows_where_everything_is(project):
    run = toy_run(project, N_TEXTS=7)
    out = project / "runs" / "tiny"
    assert (run.folder, run.executed) == (out / "01_toy", out / "01_toy.ipynb")
    assert run.figures == project / "figures" / "01_toy"
    assert run.values == {"N_TEXTS": 7, "REVISION": "x"}
    assert run.stamp == {} and run.why_stale() == "no run yet" == run.committed_changes()[0]


@pytest.mark.parametrize("name", ["tiny", "qwen3-8b-l50"])
def test_a_command_parses_each_file_once(name, monkeypatch):
    """The preset's file, and with it those of presets that it names; each notebook; but a model's
    config.json, which is small and may change, whenever it is asked."""
    read_yaml, loads = presets.read_yaml, json.loads
    texts = {yaml: [], json: []}
    monkeypatch.setattr(presets, "read_yaml", lambda t: (texts[yaml].append(t), read_yaml(t))[1])
    monkeypatch.setattr(json, "loads", lambda t: (texts[json].append(t), loads(t))[1])
    main(["--preset", name, "--dry-run"])
    texts[json] = [text for text in texts[json] if '"cells"' in text]
    for read in texts.values():
        assert len(read) == len(set(read)) > 0
    assert len(texts[json]) >= 6


def test_a_file_that_changed_is_read_again(project):
    run = toy_run(project)
    assert run.values["N_TEXTS"] == 4
    run.values["N_TEXTS"] = 5  # a copy
    assert run.values["N_TEXTS"] == 4
    (project / "notebooks" / "params" / "tiny.yaml").write_text("01_toy:\n  N_TEXTS: 12\n")
    assert run.values == {"N_TEXTS": 12}


def test_what_is_no_notebook_is_named(project):
    (project / "notebooks" / "01_toy.ipynb").write_text("{")
    with pytest.raises(ValueError, match="01_toy.ipynb is not a notebook; restore it"):
        declared(project / "notebooks" / "01_toy.ipynb")
