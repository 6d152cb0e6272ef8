"""Functions that a lesson defines in its cells, for tests and measurements of them."""

import ast
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def defined(notebook: str, **given) -> dict:
    """The namespace of a notebook's imports and functions, and of the names in `given`, which its
    functions may use. Nothing else of the notebook runs, and of exercises nothing."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    space = dict(given)
    for cell in cells:
        if cell["cell_type"] != "code" or "check" in cell["metadata"].get("tags", []):
            continue
        body = ast.parse("".join(cell["source"])).body
        wanted = [
            part for part in body if isinstance(part, ast.FunctionDef | ast.Import | ast.ImportFrom)
        ]
        named = [part for part in body if isinstance(part, ast.Assign) and _is_maker(part.value)]
        exec(compile(ast.Module([*wanted, *named], []), notebook, "exec"), space)
    return space


def _is_maker(value) -> bool:
    """True for namedtuple(…) and partial(…), which make functions without def."""
    called = isinstance(value, ast.Call) and isinstance(value.func, ast.Name)
    return called and value.func.id in ("namedtuple", "partial")
