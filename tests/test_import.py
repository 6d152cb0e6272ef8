"""Importing the package is silent and quick, and every public name is where it is said to be."""

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

import qs_helpers as qs

CODE = """
import sys, qs_helpers
heavy = {"torch", "transformers", "matplotlib", "pandas", "papermill"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_is_silent_and_quick():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert min(times) < 3


def test_import_of_every_module_prints_nothing_and_needs_no_transformers():
    modules = [path.stem for path in Path(qs.__file__).parent.glob("[a-z]*.py")]
    code = f"import sys\nfor m in {modules}: __import__('qs_helpers.' + m)\n"
    code += "assert 'transformers' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("name", qs.__all__)
def test_public_name_exists(name):
    value = getattr(qs, name)
    module = import_module(f"qs_helpers.{qs._HOME[name]}")
    assert getattr(module, name) is value and name in module.__all__
    assert name in dir(qs)


def test_no_name_is_also_a_module():
    """A module would hide a name that is spelt the same, once it is imported."""
    modules = {path.stem for path in Path(qs.__file__).parent.glob("[a-z]*.py")}
    assert modules & set(qs.__all__) == set()


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'qs_helpers' has no attribute 'steer'"):
        _ = qs.steer
