"""Settings of a notebook: the values of a preset's file, with the notebook's parameters on top.

project_root    folder that holds notebooks/, figures/ and runs/
resolve_preset  "auto" becomes $QS_PRESET, else "tiny"
is_tiny         True for the presets of the embedded scope
preset_values   what a preset's file says for one notebook
settings        the validated values of one run, as a namespace
check_type      refuse a value of another type than the one expected
nearest         the known names closest to a misspelt one, as words for an error
"""

import os
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

__all__ = [
    "check_type",
    "is_tiny",
    "nearest",
    "preset_values",
    "project_root",
    "resolve_preset",
    "settings",
]


def project_root() -> Path:
    """The folder that holds `notebooks/`: the checkout, else the current folder."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def resolve_preset(preset: str) -> str:
    """The preset to use: the name itself, or for "auto" the variable QS_PRESET, else "tiny"."""
    if preset != "auto":
        return preset
    return os.environ.get("QS_PRESET") or "tiny"


def is_tiny(preset: str) -> bool:
    """True if the preset is one of the embedded scope: tiny, tiny-instruct or tiny-sft."""
    return preset == "tiny" or preset.startswith("tiny-")


def nearest(name: str, known) -> str:
    """Words that end an error about an unknown name: the known ones like it, else all of them.

    >>> nearest("SEDE", ["SEED", "LAYER"])
    'did you mean SEED?'
    """
    by_upper = {k.upper(): k for k in sorted(known)}
    close = get_close_matches(name.upper(), by_upper, n=3)
    if close:
        return f"did you mean {' or '.join(by_upper[match] for match in close)}?"
    return f"known: {', '.join(by_upper.values()) or 'none'}"


def check_type(name: str, value: Any, expected: Any) -> Any:
    """The value, if its type is that of `expected`; an int becomes a float where one is expected.

    An `expected` of None accepts everything, and so does an empty list for the items of a list.
    Raises TypeError with the parameter's name and both types. A bool is not a number here.
    """
    if expected is None:
        return value
    if type(expected) is float and type(value) is int:
        return float(value)
    if isinstance(expected, list) and isinstance(value, tuple):
        value = list(value)
    if type(value) is not type(expected):
        raise TypeError(
            f"{name} = {value!r} is {type(value).__name__}, but {type(expected).__name__} "
            f"is expected, such as {expected!r}"
        )
    if isinstance(expected, list) and expected:
        return [check_type(f"{name}[{i}]", item, expected[0]) for i, item in enumerate(value)]
    return value


def preset_values(notebook: str, preset: str, folder: Path | None = None) -> dict[str, Any]:
    """What `<folder>/<preset>.yaml` says for a notebook: its `common:` values, then its own.

    `folder` is notebooks/params of the project by default.
    Raises ValueError for an unknown preset and for a file that is not sections of names.
    """
    folder = folder or project_root() / "notebooks" / "params"
    path = folder / f"{preset}.yaml"
    if not path.is_file():
        known = [p.stem for p in folder.glob("*.yaml")]
        raise ValueError(
            f"preset {preset!r} has no file notebooks/params/{preset}.yaml; "
            + nearest(preset, known)
        )
    sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(sections, dict):
        raise ValueError(f"{path.name}: sections are expected, such as 'common:'")
    values = {}
    for section in ("common", notebook):
        found = sections.get(section) or {}
        if not isinstance(found, dict):
            raise ValueError(f"{path.name}: section {section!r} must hold lines 'NAME: value'")
        values |= found
    return values


def settings(notebook: str, preset: str, **params) -> SimpleNamespace:
    """The values of one run: the preset's file, with every parameter that is not None on top.

    notebook: file name without .ipynb, such as "01_load"; preset: a name, or "auto".
    The namespace has one attribute per name, and PRESET, the resolved preset.

    Raises ValueError for a parameter that the preset's file does not know (with the nearest
    name) and TypeError for one of another type than the file's value.
    """
    preset = resolve_preset(preset)
    values = preset_values(notebook, preset)
    for name, value in params.items():
        if name not in values:
            raise ValueError(
                f"parameter {name!r} is not in notebooks/params/{preset}.yaml for {notebook}; "
                + nearest(name, values)
            )
        if value is not None:
            values[name] = check_type(name, value, values[name])
    return SimpleNamespace(PRESET=preset, **values)
