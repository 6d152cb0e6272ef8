"""Importing the package is silent and quick, and every public name is where it is said to be."""

import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

import qs_helpers as qs

PACKAGE = Path(qs.__file__).parent
CODE = """
import sys, qs_helpers
heavy = {"torch", "transformers", "matplotlib", "pandas", "papermill"} & set(sys.modules)
assert not heavy, heavy
"""
PUBLIC = [
    (package, module, name)
    for package in (qs, qs.views, qs.evidence, qs.loading)
    for module, names in package._NAMES.items()
    for name in names.split()
]


def test_import_is_silent_and_quick():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert min(times) < 3


def test_import_of_every_module_prints_nothing_and_needs_no_transformers():
    paths = [path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("[a-z]*.py")]
    modules = [".".join(path.with_suffix("").parts) for path in paths]
    code = f"import sys\nfor m in {modules}: __import__(m)\n"
    code += "assert 'transformers' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("package, module, name", PUBLIC, ids=lambda x: getattr(x, "__name__", x))
def test_a_public_name_is_where_it_is_said_to_be(package, module, name):
    value = getattr(package, name)
    assert getattr(import_module(f"{package.__name__}.{module}"), name) is value
    assert name in dir(package)
    assert isinstance(value, dict | tuple | str) or (value.__doc__ or "").strip(), "no docstring"


def test_no_name_is_also_a_module():
    """A module would hide a name that is spelt the same, once it is imported."""
    for package in (qs, qs.views, qs.evidence, qs.loading):
        names = [name for names in package._NAMES.values() for name in names.split()]
        assert len(names) == len(set(names))
        modules = {path.stem for path in Path(package.__file__).parent.glob("[a-z]*")}
        assert modules & set(names) == set()


def test_unknown_name():
    with pytest.raises(AttributeError, match="qs_helpers attribute steer"):
        _ = qs.steer
