"""pytest --nbmake notebooks/ on the preset that $QS_PRESET names."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


def collect(preset, *argv):
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", *argv]
    env = os.environ | {"QS_PRESET": preset}
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)


def test_the_tiny_scope_runs_every_notebook_but_the_build():
    found = collect("tiny", "--collect-only", "notebooks/").stdout
    names = [path.name for path in sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb"))]
    assert names and all(name in found for name in names) and "00_build" not in found
    assert "deselected" in found
    assert (
        "00_build"
        in collect("tiny", "--collect-only", "notebooks/00_build_tiny_scope.ipynb").stdout
    )


@pytest.mark.parametrize("preset", ["qwen3-1.7b-l50", "qwen3.6-27b"])
def test_a_preset_of_the_catalog_or_in_bfloat16_is_marked_gpu(preset):
    found = collect(preset, "--collect-only", "-m", "gpu", "notebooks/")
    assert "01_load.ipynb" in found.stdout
    found = collect(preset, "--collect-only", "-m", "not gpu", "notebooks/")
    assert "01_load.ipynb" not in found.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: nothing to refuse")
def test_without_a_gpu_the_reason_is_printed():
    ran = collect("qwen3-1.7b-l50", "-rs", "notebooks/")
    asked = len(list((ROOT / "notebooks").glob("*.ipynb"))) - 1  # not 00
    assert ran.returncode == 0 and f"{asked} skipped" in ran.stdout
    assert "preset qwen3-1.7b-l50 needs a CUDA device" in ran.stdout


def test_notebooks_are_dealt_so_that_both_workers_end_together():
    spec = importlib.util.spec_from_file_location("door", ROOT / "notebooks" / "conftest.py")
    door = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(door)
    items = [SimpleNamespace(path=p) for p in sorted((ROOT / "notebooks").glob("0[1-6]_*.ipynb"))]
    dealt = door.dealt(items, 2)
    assert sorted(dealt, key=lambda item: item.path) == items
    seconds = [
        json.loads((ROOT / "figures" / item.path.stem / "results.json").read_text())["seconds"]
        for item in dealt
    ]
    assert max(sum(seconds[:3]), sum(seconds[3:])) < 0.65 * sum(seconds)
    assert seconds[0] == max(seconds)
