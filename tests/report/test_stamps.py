"""Committed outputs belong to their code, and what a stamp is made of."""

import importlib.metadata
import json
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from qs_helpers.report import stamps
from qs_helpers.report.run import Preset, Run
from qs_helpers.texts import pydoc

ROOT = Path(__file__).resolve().parents[2]
# 00 is run by `make scope` only, with the weights that it makes; test_tiny_scope.py checks those.
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb"))


def run_of(path: Path, **passed) -> Run:
    return Run(path, Preset("tiny", path.parent / "params"), ROOT / "runs" / "tiny", passed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_outputs_belong_to_their_code(path):
    """If this fails: `make refresh` runs what is stale."""
    assert run_of(path).committed_changes() == []


def test_a_stamp_names_what_changed():
    path = NOTEBOOKS[0]
    old = run_of(path).new_stamp()
    assert stamps.changes(old, old) == []
    assert stamps.changes({}, old) == ["no run yet"]
    assert stamps.changes(old, run_of(path, SEED=1).new_stamp()) == ["the parameters"]
    new = json.loads(json.dumps(old))
    new["code"] = "other"
    old["helper"]["fvu"] = "0123abcd"
    was = old["versions"]["torch"]
    new["versions"]["torch"] = "9.9"
    assert stamps.changes(old, new) == ["the code", "the helper's fvu", f"torch {was}, now 9.9"]


@pytest.mark.parametrize("name", ["DATA", "TEXTS"])
def test_a_users_file_is_part_of_the_stamp(tmp_path, name):
    path = tmp_path / "texts.txt"
    path.write_text("a")
    notebook = ROOT / "notebooks" / "04_toxicity.ipynb"
    old = run_of(notebook, **{name: str(path)}).new_stamp()
    path.write_text("bc")
    new = run_of(notebook, **{name: str(path)}).new_stamp()
    assert stamps.changes(old, new) == ["the data"]


def test_the_natural_sets_are_part_of_the_stamp_of_who_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "HELPER", tmp_path)
    path = tmp_path / "natural" / "remarks.jsonl"
    path.parent.mkdir()
    path.write_text("{}")
    old = stamps._inputs({"DATA": "natural", "PROMPTS": ["tiny"]}, {})
    assert list(old) == ["natural/remarks.jsonl"]
    assert old == stamps._inputs({"PROMPTS": ["natural"]}, {})
    assert stamps._inputs({"TEXTS": "tiny:story"}, {}) == {}
    path.write_text("{ }")
    assert stamps._inputs({"TEXTS": "natural:recipe"}, {}) != old


def test_documentation_is_known_by_the_versions_of_what_is_read(monkeypatch):
    """An upgrade of one is another text. What is installed beside them trains no suite again."""
    old = stamps._inputs({"TEXTS": "pydoc"}, {})
    assert old["pydoc scipy"] == version("scipy")
    assert old.items() <= stamps._inputs({"TEXTS": ["natural", "pydoc:numpy"]}, {}).items()
    assert stamps._inputs({"TEXTS": "tiny"}, {}) == {}
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: [])
    assert stamps._inputs({"TEXTS": "pydoc"}, {}) == old
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9" * (name == "seaborn"))
    assert stamps._inputs({"TEXTS": "pydoc"}, {})["pydoc seaborn"] == "9"


def test_all_the_documentation_that_is_read_is_known():
    """The report may not import `texts`, so the names are written twice."""
    packages = packages_distributions()
    read = {packages[name][0] for name in pydoc.installed() if name != "python"}
    known = {name.removeprefix("pydoc ") for name in stamps._inputs({"TEXTS": "pydoc"}, {})}
    assert {name.lower().replace("-", "_") for name in read} == {n.replace("-", "_") for n in known}


CODE = '''"""Doc."""
# a comment
import os


def f(x):
    """Says what."""
    text = "# no comment"  # a comment
    return f"{x} {text}"
'''


def test_comments_docstrings_and_formatting_are_free():
    plain = stamps.plain_source(CODE)
    body = "def f(x):\n    text = '# no comment'\n    return f'{x} {text}'"
    assert plain == f"import os\n\n{body}"
    other = CODE.replace("Says what.", "Says\n    more.").replace("# a comment", "# another")
    assert stamps.plain_source(other.replace("f(x)", "f( x )")) == plain
    assert stamps.plain_source(CODE.replace("{x}", "{x!r}")) != plain
    assert stamps.plain_source('x = """\na\n"""\n') != stamps.plain_source('x = """\nb\n"""\n')
    assert stamps.plain_source("%matplotlib inline") == "%matplotlib inline"


FLAT = {
    "__init__.py": '_NAMES = {"math": "area"}\n',
    "math.py": "from .units import PI\n\n\ndef area(r):\n    return PI * _square(r)\n\n\n"
    "def _square(x):\n    return x * x\n\n\ndef unused(x):\n    return x\n",
    "units.py": "PI = 3.14\n",
}
ROOMS = {
    "__init__.py": '_NAMES = {"rooms.circle": "area"}\n',
    "rooms/__init__.py": "",
    "rooms/circle.py": "from ..deep.numbers import PI\nfrom . import square\n\n\ndef area(r):\n"
    '    """Now with a docstring."""\n    from .square import _square\n\n'
    "    return PI*_square( r )\n",
    "rooms/square.py": "def _square(x):  # a comment\n    return x * x\n",
    "deep/__init__.py": "",
    "deep/numbers.py": "PI = 3.14\n",
}


def helper_of(files: dict[str, str], tmp_path, monkeypatch):
    """Let `stamps` see a helper made of some files."""
    folder = tmp_path / f"v{len(list(tmp_path.iterdir()))}" / "qs_helpers"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(stamps, "HELPER", folder)
    stamps.forget()


@pytest.fixture
def forgotten():
    yield
    stamps.forget()


def test_what_moves_is_still_the_same(tmp_path, monkeypatch, forgotten):
    code = ["import qs_helpers as qs\nprint(qs.area(2))"]
    helper_of(FLAT, tmp_path, monkeypatch)
    before = stamps.used_definitions(code)
    assert list(before) == ["PI", "_square", "area"]  # what is not used is not in it
    helper_of(ROOMS, tmp_path, monkeypatch)
    assert stamps.used_definitions(code) == before
    assert (
        stamps.used_definitions(["from qs_helpers.rooms import circle\ncircle.area(2)"]) == before
    )
    assert stamps.used_definitions(["import qs_helpers as qs\nqs.rooms.circle.area"]) == before
    rest = {"code": "", "parameters": "", "data": "", "versions": {}}
    old = rest | {"helper": before}
    assert stamps.changes(old, rest) == []
    other = ROOMS | {"deep/numbers.py": "PI = 3.1416\n"}
    helper_of(other, tmp_path, monkeypatch)
    assert stamps.changes(old, rest) == ["the helper's PI"]


def test_definitions_of_one_name_share_an_entry(tmp_path, monkeypatch, forgotten):
    files = {"__init__.py": "", "a.py": "N = 1\n", "b.py": "N = 2\n"}
    helper_of(files, tmp_path, monkeypatch)
    found = stamps.used_definitions(["from qs_helpers import a, b\na.N + b.N"])
    assert list(found) == ["N"] and len(found["N"].split()) == 2
    helper_of(files | {"b.py": "N = 3\n"}, tmp_path, monkeypatch)
    old = {"code": "", "parameters": "", "data": "", "versions": {}, "helper": found}
    assert stamps.changes(old, old) == ["the helper's N"]
