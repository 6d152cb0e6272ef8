"""Every parameter of the notebooks: its type, its value on a preset, and what it is for."""

import ast
import io
import json
import re
import textwrap
import tokenize
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import yaml

from ..presets import ITEMS, project_root
from .check import check_parameters, check_preset
from .run import TRAIN, Preset, code_sources, declared, find_notebooks

WIDTH = 100  # columns
HELP = 34  # the column in which help begins


def list_parameters(
    preset: str,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    given: list[tuple[str, str]] = (),
    root: Path | None = None,
) -> list[dict[str, Any]]:
    """One dict per parameter: notebook, name, type, value, help, in the notebooks' order.

    Those of the parameters cell come first, then the sizes and budgets that only the preset's file
    has. only, skip: numbers or names of notebooks, by default all that a report on this preset
    runs; given: values on top of the preset's, as text. Raises what `plan_report` does.
    """
    folder = (root or project_root()).resolve() / "notebooks"
    chosen = Preset(preset, folder / "params")
    notebooks = find_notebooks(folder, only, skip, asked="--list")
    if not only and TRAIN not in chosen.sections:
        notebooks = [path for path in notebooks if path.stem != TRAIN]
    check_preset(chosen, notebooks)
    passed, comments = check_parameters(notebooks, given, chosen), _preset_comments(chosen)
    rows = []
    for path in notebooks:
        values = chosen.values(path.stem) | passed[path.stem]
        own, names = _cell_comments(path), declared(path)
        told = comments.get("common", {}) | comments.get(path.stem, {})
        told |= {name: text for name, text in own.items() if text}
        for name in (name for name in own | values if name in names):
            value = values[name]
            row = {"notebook": path.stem, "name": name, "type": _type(name, value), "value": value}
            rows.append(row | {"help": told.get(name, "")})
    return rows


def listing_text(preset: str, rows: list[dict[str, Any]]) -> str:
    """The parameters for a terminal of 100 columns, as lines NAME: type = value, and their help."""
    lines = [f"preset {preset}; to run with another value: -p NAME VALUE"]
    for stem in dict.fromkeys(row["notebook"] for row in rows):
        lines += ["", stem]
        for row in rows:
            if row["notebook"] == stem:
                value = json.dumps(row["value"], ensure_ascii=False)
                left = _wrapped(f"{row['name']}: {row['type']} = {value}", 2, 6)
                right = _wrapped(row["help"], HELP, HELP)
                if len(left) == 1 and len(left[0]) <= HELP - 2 and right:
                    left = [left[0].ljust(HELP) + right.pop(0).lstrip()]
                lines += left + right
    return "\n".join(lines)


def _type(name: str, value: Any) -> str:
    items = [ITEMS[name]] if name in ITEMS else value
    of = f" of {type(items[0]).__name__}" if isinstance(value, list) and items else ""
    return type(value).__name__ + of


def _cell_comments(notebook: Path) -> dict[str, str]:
    """Name to the comment of its line, of each parameter that the notebook's cell declares."""
    source = next((text for text, tags in code_sources(notebook) if "parameters" in tags), "")
    signs = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {sign.start[0]: sign.string for sign in signs if sign.type == tokenize.COMMENT}
    lines = [line for line in ast.parse(source).body if isinstance(line, ast.AnnAssign)]
    found = {line.target.id: comments.get(line.end_lineno, "") for line in lines}
    found.pop("PRESET", None)  # --preset chooses it
    ending = "; None: the preset's value"  # here its value is shown
    return {name: text.lstrip("# ").removesuffix(ending) for name, text in found.items()}


def _preset_comments(preset: Preset) -> dict[str, dict[str, str]]:
    """Section to name to the comment of its line in a preset's file; of a list that takes lines,
    the comment beside its name."""
    text = (preset.folder / f"{preset.name}.yaml").read_text(encoding="utf-8-sig")
    lines = text.splitlines()
    found: dict[str, dict[str, str]] = {}
    for section, names in getattr(yaml.compose(text, yaml.SafeLoader), "value", []):
        told = found[section.value] = {}
        for name, value in names.value or []:
            beside = value.end_mark.line == name.end_mark.line
            mark = value.end_mark if beside else name.end_mark
            comment = re.search(r"(?:^|\s)#\s*(.+)", lines[mark.line][mark.column :])
            told[name.value] = comment[1].strip() if comment else ""
    return found


def _wrapped(text: str, first: int, rest: int) -> list[str]:
    """The lines of a text, in which signs of double width count as two."""
    padded = "".join(sign + "\0" * (east_asian_width(sign) in "WF") for sign in text)
    indents = {"initial_indent": " " * first, "subsequent_indent": " " * rest}
    return [line.replace("\0", "") for line in textwrap.wrap(padded, WIDTH, **indents)]
