"""What a report is asked to do, checked before anything is loaded: names, types and ranges.

No notebook library and no torch is imported here: a refusal should come at once.
"""

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from ..loading.catalog import COMMUNITY, DTYPE_BYTES, GROUPS, Origin, layer_files
from ..presets import (
    PATHS,
    check_type,
    dataset_name,
    is_tiny,
    located,
    nearest,
    preset_names,
    preset_sections,
    preset_values,
    scope_values,
)

BUILD = "00_build_tiny_scope"  # builds the embedded scope for half an hour


REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


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
    if not every:
        raise ValueError("no notebooks found: notebooks/01_*.ipynb and on are expected")
    if not chosen:
        raise ValueError("no notebook is left to run: give other --only or --skip")
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
                # Paths are relative to where the command is typed.
                value = located(value, Path.cwd()) if name in PATHS else value
                check_value(name, value, preset, layers, params)
                passed[stem][name] = value
    return passed


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
    _check_names(preset, notebooks[0].parent, params)
    _check_scope(preset, params)
    for path in notebooks:
        kinds = {name: kind for name, kind in declared(path).items() if name != "PRESET"}
        values = preset_values(path.stem, preset, params)
        for name, kind in kinds.items():
            if name not in values:
                raise ValueError(f"{preset}.yaml lacks {name} of {path.stem}; see tiny.yaml")
            try:
                check_value(name, check_type(name, values[name], kind), preset, layers, params)
            except (ValueError, TypeError) as bad:
                raise type(bad)(f"{preset}.yaml, {path.stem}: {bad}") from None


def _check_names(preset: str, folder: Path, params: Path | None) -> None:
    """Refuse sections that are no notebook, and names that no notebook of theirs declares."""
    every = {path.stem: declared(path) for path in folder.glob("[0-9][0-9]_*.ipynb")}
    for section, values in preset_sections(preset, params).items():
        if section == "scope":
            continue
        if section not in (*every, "common"):
            known = [*every, "common", "scope"]
            raise ValueError(f"{preset}.yaml: section {section!r}; {nearest(section, known)}")
        kinds = every.values() if section == "common" else [every[section]]
        names = {name for kind in kinds for name in kind} - {"PRESET"}
        for name in sorted(values.keys() - names):
            raise ValueError(f"{preset}.yaml, {section}: {name}; {nearest(name, names)}")


def _check_scope(preset: str, params: Path | None) -> None:
    """Refuse values of the section `scope:` that load_scope would refuse."""
    values = scope_values(preset, params)
    for name in ("k", "batch_tokens"):
        if values.get(name, 1) < 1:
            raise ValueError(f"{preset}.yaml, scope: {name} = {values[name]}: at least 1")
    dtype, device = values.get("dtype", "float32"), values.get("device", "cpu")
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"{preset}.yaml, scope: dtype {dtype!r}; {nearest(dtype, DTYPE_BYTES)}")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"{preset}.yaml, scope: device {device!r}; known: cpu, cuda, cuda:0, mps")


def check_value(
    name: str, value: Any, preset: str, layers: tuple[int, ...] | None, params: Path | None = None
) -> None:
    """ValueError for a value that no run can have: layers that the suite lacks, numbers out of
    range, models and suites that are nowhere, prompts of another form."""
    if name == "LAYERS" and layers is not None:
        missing = [layer for layer in value if layer not in layers]
        if missing:
            span = f"{layers[0]} to {layers[-1]}" if layers else "none"
            raise ValueError(f"LAYERS has {missing}, but the SAEs are of layers {span}")
    if name == "LANGUAGES" and not value:
        raise ValueError("LANGUAGES is empty; give codes such as [en, zh]")
    if name in ("MODELS", "SUITES"):
        _check_scopes(name, value, preset, params)
    if name == "PROMPTS" and value:
        found = [dataset_name(text) for text in value]
        if not (len(value) == 1 and found == [None] or len(value) == 2 and None not in found):
            raise ValueError(f"PROMPTS = {value}: give a csv or jsonl file, or two Hub datasets")
    if type(value) not in (int, float):
        return
    if not math.isfinite(value):
        raise ValueError(f"{name} = {value}: a finite number is needed")
    for rule, least in LEAST.items():
        applies = name == rule or (rule[-1] == "_" and name.startswith(rule))
        applies |= rule[0] == "_" and name.endswith(rule)
        if applies and value < least:
            raise ValueError(f"{name} = {value}: it must be at least {least}")


def _check_scopes(name: str, value: list, preset: str, params: Path | None) -> None:
    known = {*preset_names(params), *GROUPS, *COMMUNITY}
    for text in value:
        other = text == "own" if name == "SUITES" else bool(REPO.fullmatch(text))
        if not (text in known or other or name == "MODELS" and Path(text).is_dir()):
            more = ["own"] if name == "SUITES" else []
            raise ValueError(f"{name}: {text!r}; {nearest(text, [*known, *more])}")
        if is_tiny(text) and not is_tiny(preset):
            # Its results would not be labelled as those of the tiny scope.
            raise ValueError(f"{name}: {text!r} is an embedded scope; {preset} needs its own")


def known_layers(origin: Origin) -> tuple[int, ...] | None:
    """The layers of an origin's suite; None for a repo that the catalog does not have."""
    if origin.group is not None:
        return origin.group.layers
    folder = Path(origin.sae)
    if not folder.is_dir():
        return None
    return tuple(layer_files(path.name for path in folder.iterdir())) or None
