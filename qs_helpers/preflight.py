"""What a report is asked to do, checked before anything is loaded: names, types and ranges.

find_notebooks    the notebooks that a report runs, in order
code_sources      the code cells of a notebook
declared          the parameters of a notebook and their types
check_parameters  parameters given as text, for each notebook that declares them
check_preset      what a preset's file says, against the notebooks and the suite
known_layers      the layers that a preset's suite has, where that is known without a network

No notebook library and no torch is imported here: a refusal should not take longer to come than
the mistake took to make.
"""

import ast
import json
import math
from pathlib import Path
from typing import Any

import yaml

from .origins import Origin, layer_files
from .presets import check_type, nearest, preset_values

__all__ = [
    "BUILD",
    "check_parameters",
    "check_preset",
    "code_sources",
    "declared",
    "find_notebooks",
    "known_layers",
]

BUILD = "00_build_tiny_scope"  # builds the embedded scope for half an hour
TYPES = {"str": "", "int": 0, "float": 0.0, "bool": False, "list": [], "dict": {}}
# The least value of a number, by the name of its parameter or how the name begins or ends.
LEAST = {"SEED": 0, "STEPS": 0, "TEMPERATURE": 0, "MAX_FVU": 0, "REDRAWS": 1, "N_": 1, "_TOKENS": 1}


def find_notebooks(
    folder: Path, only: list[str] | None = None, skip: list[str] | None = None
) -> list[Path]:
    """The notebooks NN_*.ipynb of a folder, sorted; `only` and `skip` are numbers or names.

    00 is run only when it is named. ValueError for an unknown one, with the nearest name, and if
    nothing is left.
    """
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    for flag, names in (("--only", only), ("--skip", skip)):
        for name in names or []:
            if not any(name in (p.stem, p.stem[:2]) for p in every):
                raise ValueError(f"{flag} {name}: {nearest(name, [p.stem for p in every])}")
    chosen = [
        path
        for path in every
        if (path.stem in only or path.stem[:2] in only if only else path.stem != BUILD)
        and not {path.stem, path.stem[:2]} & set(skip or [])
    ]
    if not chosen:
        raise ValueError("no notebooks found: notebooks/01_*.ipynb and on are expected")
    return chosen


def code_sources(path: Path) -> list[tuple[str, list[str]]]:
    """Source and tags of each code cell of a notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path.name} is not a notebook; restore it") from None
    return [
        ("".join(cell["source"]), cell.get("metadata", {}).get("tags", []))
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def declared(path: Path) -> dict[str, Any]:
    """Name to a value of the declared type, of the cell tagged `parameters`; None: any type."""
    for source, tags in code_sources(path):
        if "parameters" in tags:
            lines = [line for line in ast.parse(source).body if isinstance(line, ast.AnnAssign)]
            # list[int] is a list: what is in it is checked against the preset's value.
            kinds = {line.target.id: line.annotation for line in lines}
            names = {name: getattr(kind, "value", kind) for name, kind in kinds.items()}
            return {name: TYPES.get(getattr(kind, "id", "")) for name, kind in names.items()}
    return {}


def check_parameters(
    notebooks: list[Path],
    given: list[tuple[str, str]],
    preset: str,
    layers: tuple[int, ...] | None = None,
    params: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook (by stem) from names and values given as text.

    A name goes to every notebook that declares it. ValueError for a name that none declares, with
    the nearest one, or a value out of range; TypeError for a value of another type than declared.
    """
    names = {path.stem: declared(path) for path in notebooks}
    known = {name for kinds in names.values() for name in kinds} - {"PRESET"}
    passed: dict[str, dict[str, Any]] = {path.stem: {} for path in notebooks}
    for name, text in given:
        if name not in known:
            raise ValueError(f"parameter {name!r} is in no notebook; {nearest(name, known)}")
        for stem, kinds in names.items():
            if name in kinds:
                # A text stays what it is: a revision such as 12e5 is no number.
                value = text if kinds[name] == "" else _yaml(name, text)
                value = check_type(name, value, kinds[name])
                value = check_type(name, value, preset_values(stem, preset, params).get(name))
                _check_range(name, value, layers)
                passed[stem][name] = _absolute(value)
    return passed


def _absolute(value: Any) -> Any:
    """A file named from where the command was typed, as the notebook finds it from its folder."""
    if isinstance(value, list):
        return [_absolute(item) for item in value]
    is_file = isinstance(value, str) and Path(value).expanduser().is_file()
    return str(Path(value).expanduser().resolve()) if is_file else value


def _yaml(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{name} = {text!r} is not YAML; lists are written '[1, 2]'") from None


def check_preset(
    preset: str,
    notebooks: list[Path],
    layers: tuple[int, ...] | None = None,
    params: Path | None = None,
) -> None:
    """ValueError or TypeError unless a preset's file gives each notebook exactly what it declares.

    layers: those that the suite has, None if unknown.
    """
    for path in notebooks:
        kinds = {name: kind for name, kind in declared(path).items() if name != "PRESET"}
        values = preset_values(path.stem, preset, params)
        for name, kind in kinds.items():
            if name not in values:
                raise ValueError(f"{preset}.yaml lacks {name} of {path.stem}; see tiny.yaml")
            try:
                _check_range(name, check_type(name, values[name], kind), layers)
            except (ValueError, TypeError) as bad:
                raise type(bad)(f"{preset}.yaml, {path.stem}: {bad}") from None
        own = values.keys() - preset_values("", preset, params).keys()
        for name in sorted(own - kinds.keys()):
            raise ValueError(f"{preset}.yaml, {path.stem}: {name}; {nearest(name, kinds)}")


def _check_range(name: str, value: Any, layers: tuple[int, ...] | None) -> None:
    if name == "LAYERS" and layers is not None:
        missing = [layer for layer in value if layer not in layers]
        if missing:
            span = f"{layers[0]} to {layers[-1]}" if layers else "none"
            raise ValueError(f"LAYERS has {missing}, but the SAEs are of layers {span}")
    if type(value) not in (int, float):
        return
    if not math.isfinite(value):
        raise ValueError(f"{name} = {value}: a finite number is needed")
    for rule, least in LEAST.items():
        applies = name == rule or (rule[-1] == "_" and name.startswith(rule))
        applies |= rule[0] == "_" and name.endswith(rule)
        if applies and value < least:
            raise ValueError(f"{name} = {value}: it must be at least {least}")


def known_layers(origin: Origin) -> tuple[int, ...] | None:
    """The layers of an origin's suite; None for a repo that the catalog does not have."""
    if origin.group is not None:
        return origin.group.layers
    folder = Path(origin.sae)
    if not folder.is_dir():
        return None
    return tuple(layer_files(path.name for path in folder.iterdir())) or None
