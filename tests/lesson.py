"""Functions that a lesson defines in its cells, for tests and measurements of them."""

import ast
import itertools
import json
from pathlib import Path
from typing import NamedTuple

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


class Exercise(NamedTuple):
    given: list[str]  # sources of the cells between the task and the exercise
    exercise: str  # with its solution
    checks: list[str]


def exercise(notebook: str, number: int) -> Exercise:
    """The cells of the exercise of a notebook that has this number, counted from 1."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    starts = [i for i, cell in enumerate(cells) if "exercise" in cell["metadata"].get("tags", [])]
    place = starts[number - 1]
    source = ["".join(cell["source"]) for cell in cells]
    task = max(i for i in range(place) if cells[i]["cell_type"] == "markdown")
    checks = itertools.takewhile(
        lambda i: "check" in cells[i]["metadata"].get("tags", []), range(place + 1, len(cells))
    )
    return Exercise(source[task + 1 : place], source[place], [source[i] for i in checks])
