"""A name is at the top level because notebooks share it, and what the README names exists."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

import qs_helpers as qs

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PAGES = ["README.md", "qs_helpers/README.md", "notebooks/params/README.md"]
README = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)

# Top-level names that fewer than two notebooks use, and why they are there all the same.
RESULT = "what a shared function returns; its page is looked up by that name"
CONTROL = "a control that every claim about an edit needs"
SHARED_ALL_THE_SAME = {
    "TopKSAE": RESULT,
    "SparseActs": RESULT,
    "Scope": RESULT,
    "CONVENTIONS": "the choices of load_sae and load_scope for suites of other makers",
    "load_sae": "one SAE file without a model",
    "get_group": "what a group is, before its terabyte is asked for",
    "memory_plan": "what a group needs, before it is downloaded",
    "edit_sizes": CONTROL,
    "kl_by_position": "the cost of an edit, which the README shows",
    "export_steering": "what a notebook found, for a runtime that no notebook runs",
    "GROUPS": "the catalog that get_group reads",
    "measured": "time and memory of a run, at the top of a notebook that is no lesson: 00",
    "versions": "what a notebook of one's own begins with, as 00 does",
}


def names_in(tree: ast.AST) -> set[str]:
    """Every a.b.c that begins with qs, with its beginnings: qs.views.token_strip, qs.views."""
    return {
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and re.fullmatch(r"qs(\.\w+)+", ast.unparse(node))
    }


def notebook_names(path: Path) -> set[str]:
    """What the code cells of a notebook reach through qs; lines of IPython left out."""
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    source = "\n".join(cells)
    return names_in(ast.parse(re.sub(r"^[%!].*$", "", source, flags=re.M)))


def public_names() -> list[str]:
    return [name for names in qs._NAMES.values() for name in names.split()]


def resolve(chain: str):
    value = qs
    for part in chain.split(".")[1:]:
        value = getattr(value, part)
    return value


def test_there_are_at_most_sixty():
    assert len(public_names()) <= 60


def test_every_top_level_name_is_shared():
    used = [notebook_names(path) for path in NOTEBOOKS]
    n = {name: sum(f"qs.{name}" in names for names in used) for name in public_names()}
    lonely = {name for name, times in n.items() if times < 2}
    assert lonely - set(SHARED_ALL_THE_SAME) == set(), "two notebooks use it, or it has a reason"
    assert set(SHARED_ALL_THE_SAME) - lonely == set(), "no reason is needed, or no such name"
    assert all(len(reason) > 10 for reason in SHARED_ALL_THE_SAME.values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_name_of_a_notebook_exists(path):
    for chain in sorted(notebook_names(path)):
        resolve(chain)


def readme_snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_every_name_of_the_readme_exists():
    chains = set().union(*(names_in(ast.parse(text)) for text in readme_snippets()))
    assert len(chains) > 10
    for chain in sorted(chains):
        resolve(chain)


def test_every_import_of_the_readme_works():
    for text in readme_snippets():
        imports = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), "README.md", "exec"), {})
