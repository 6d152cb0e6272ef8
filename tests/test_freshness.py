"""Committed outputs belong to their code, and what a stamp is made of."""

import json
from pathlib import Path

import pytest

from qs_helpers import stamps

ROOT = Path(__file__).resolve().parents[1]
# 00 is run by `make scope` only, with the weights that it makes; test_tiny_scope.py checks those.
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_outputs_belong_to_their_code(path):
    """If this fails: `make refresh` runs what is stale."""
    assert stamps.committed_changes(path, ROOT) == []


def test_a_stamp_names_what_changed():
    path = NOTEBOOKS[0]
    old = stamps.make_stamp(path, "tiny", {})
    assert stamps.changes(old, old) == []
    assert stamps.changes({}, old) == ["no run yet"]
    assert stamps.changes(old, stamps.make_stamp(path, "tiny", {"SEED": 1})) == ["the parameters"]
    new = json.loads(json.dumps(old))
    new["code"], new["helper"]["sae"] = "other", "other"
    new["versions"]["torch"] = "9.9"
    was = old["versions"]["torch"]
    assert stamps.changes(old, new) == ["the code", "the helper's sae", f"torch {was}, now 9.9"]
    few = stamps.make_stamp(path, "tiny", {}, ["sae"])
    few["helper"]["sae"] = old["helper"]["sae"]
    assert list(few["helper"]) == ["sae"]
    gone = stamps.make_stamp(path, "tiny", {}, ["no_such_module"])
    assert gone["helper"] == {"no_such_module": "gone"}


def test_a_users_file_is_part_of_the_stamp(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("a")
    notebook = ROOT / "notebooks" / "04_toxicity.ipynb"
    old = stamps.make_stamp(notebook, "tiny", {"DATA": str(path)})
    path.write_text("bc")
    new = stamps.make_stamp(notebook, "tiny", {"DATA": str(path)})
    assert stamps.changes(old, new) == ["the data"]


CODE = '''"""Doc."""
# a comment
import os


def f(x):
    """Says what."""
    text = "# no comment"  # a comment
    return f"{x} {text}"
'''


def test_comments_and_docstrings_are_free():
    plain = stamps.plain_source(CODE)
    assert plain.splitlines() == [
        "import os", "def f(x):", '    text = "# no comment"', '    return f"{x} {text}"',
    ]  # fmt: skip
    other = CODE.replace("Says what.", "Says\n    more.").replace("# a comment", "# another")
    assert stamps.plain_source(other) == plain
    assert stamps.plain_source(CODE.replace("{x}", "{x!r}")) != plain
    assert stamps.plain_source('x = """\na\n"""\n') != stamps.plain_source('x = """\nb\n"""\n')


def test_modules_that_a_run_used_are_its_recorded_ones_and_those_its_code_names():
    helper = {"sae": "a", "hooks": "b", "knobs": "c"}
    found = stamps.used_modules(NOTEBOOKS[0], ["sae"], helper)
    assert found == {"sae": "a", "hooks": "b"}  # 01 ends with qs.hooks_left
    assert stamps.used_modules(NOTEBOOKS[0], None, helper) == helper
