"""Settings of a notebook: the values of a preset's file, with the notebook's parameters on top."""

import os
import platform
import re
from collections.abc import Callable
from copy import deepcopy
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

TINY = ("tiny", "tiny-instruct", "tiny-sft", "tiny-moe")
SOURCES = ("TEXTS", "DATA", "PROMPTS", "BENCHMARKS")  # parameters that name sources of texts
OUTPUT = "OUT"  # the parameter that names a folder which a notebook writes, beside its report
# Parameters that may name files or folders.
PATHS = (*SOURCES, "PAIRS", "CANDIDATES", "SCORES", "MODELS", "MODEL", OUTPUT)
FILES = (".csv", ".jsonl", ".txt")  # of texts
# What the lists of parameters hold, by an example.
ITEMS = {"LAYERS": 0, "STRENGTHS": 0.0, "N_ITEMS": 0}
ITEMS |= dict.fromkeys(
    ["LANGUAGES", "TOPIC", "PAIRS", "MODELS", "SUITES", "TEMPLATES", *SOURCES], ""
)
# What the section "prepare:" of a preset may say: how folders of its `scope:` are made here.
PREPARE_KEYS = ("model", "sae")

# What the section "scope:" of a preset may say: keywords of load_scope, and their types.
SCOPE_KEYS = dict.fromkeys(
    ["model", "sae", "model_revision", "sae_revision", "device", "dtype"], ""
)
SCOPE_KEYS |= {"k": 0, "batch_tokens": 0, "thinking": False}


def project_root() -> Path:
    """The folder that holds `notebooks/`: $QS_ROOT, else the checkout, else the current folder or
    the nearest above it that does."""
    if os.environ.get("QS_ROOT"):
        return Path(os.environ["QS_ROOT"]).resolve()
    checkout, here = Path(__file__).resolve().parents[1], Path.cwd()
    around = [checkout, here, *here.parents]
    return next((folder for folder in around if (folder / "notebooks" / "params").is_dir()), here)


def runs_folder(root: Path | None = None) -> Path:
    """Where everything that runs write goes: $QS_RUNS, else `runs/` of the project."""
    if elsewhere := os.environ.get("QS_RUNS"):
        return Path(os.path.expanduser(elsewhere)).resolve()
    return (root or project_root()) / "runs"


def resolve_preset(preset: str) -> str:
    """The preset to use: the name itself, or for "auto" the variable QS_PRESET, else "tiny"."""
    return (os.environ.get("QS_PRESET") or "tiny") if preset == "auto" else preset


def is_tiny(preset: str) -> bool:
    """True if the preset is one of the embedded scope: tiny, tiny-instruct, …"""
    return preset in TINY


def check_model(preset: str, model: str) -> None:
    """ValueError where the results of another model would be labelled as those of the tiny scope,
    or the other way round."""
    if is_tiny(preset) != is_tiny(model):
        raise ValueError(f"MODEL {model!r} needs a preset of its own, as the README says")


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


def check_items(name: str, value: Any) -> None:
    """TypeError for a list with an item of another type than ITEMS says; ValueError for one that
    is there twice."""
    if name in ITEMS and isinstance(value, list | tuple):
        items = check_type(name, value, [ITEMS[name]])
        for item in items:
            if items.count(item) > 1:
                raise ValueError(f"{name} has {item!r} twice; leave one out")


def dataset_name(text: str) -> str | None:
    """ "owner/name" of a text such as "owner/name@revision", else None: for a file, or nothing.

    >>> dataset_name("textdetox/multilingual_toxicity_dataset@main")
    'textdetox/multilingual_toxicity_dataset'
    """
    found = dataset_parts(text)
    return found[0] if found else None


def dataset_parts(text: str) -> tuple[str, str | None, str | None] | None:
    """(owner/name, configuration, revision) of a dataset of the Hub, or None as `dataset_name`.

    >>> dataset_parts("openai/gsm8k:main@refs/convert/parquet")
    ('openai/gsm8k', 'main', 'refs/convert/parquet')
    """
    found = re.fullmatch(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?", text)
    is_file = Path(text).suffix.lower() in FILES or os.path.exists(os.path.expanduser(text))
    return found.groups() if found and not is_file else None


def is_bundled(text: str) -> bool:
    """True for a source of texts that comes with the project: "tiny", "natural", "pydoc", or a
    part of one as in "tiny:story"; and for "lm-eval", which is fetched."""
    return text.partition(":")[0] in ("tiny", "natural", "pydoc", "lm-eval")


def preset_names(folder: Path | None = None) -> list[str]:
    """The presets that have a file in `folder`, notebooks/params of the project by default."""
    return sorted(path.stem for path in (folder or _params()).glob("*.yaml"))


def preset_values(notebook: str, preset: str, folder: Path | None = None) -> dict[str, Any]:
    """What `<folder>/<preset>.yaml` says for a notebook: its `common:` values, then its own.

    `folder` is notebooks/params of the project by default; files and folders in the values of PATHS
    are relative to it. Raises ValueError for an unknown preset and for a file that is not sections
    of names.
    """
    sections, folder = preset_sections(preset, folder), folder or _params()
    values = sections.get("common", {}) | sections.get(notebook, {})
    return values | {name: located(values[name], folder) for name in PATHS if name in values}


def without_home(text: str) -> str:
    """A text in which "~" stands for home folders, which tell who ran it: of this user, and of
    others where they have the usual place.

    >>> without_home("/net/home/alice/model")
    '~/model'
    """
    text = _HOMES.sub("~", text)
    own = (os.environ.get("HOME") or os.environ.get("USERPROFILE") or "").rstrip("/\\")
    return re.sub(rf"(?<![\w+/.]){re.escape(own)}(?=[/\\])", "~", text) if own[1:] else text


# Not in addresses of the web, nor in coded pictures. What stands before a name is folders.
_HOMES = re.compile(
    r"(?:(?<![\w+/.:-])|(?<=file://))(?:[A-Za-z]:)?(?:[/\\]+[\w.-]+)*?"
    r"[/\\]+(?:home|Users)[/\\]+[^/\\\s\"'<>&]+"
)


def located(value: Any, folder: Path) -> Any:
    """A text, or each text of a list, that is a path, as an absolute one; the rest as it is.

    A path begins with ".", "~" or "/", or ends as one of FILES; relative ones are in `folder`.
    """
    if isinstance(value, list):
        return [located(item, folder) for item in value]
    if not isinstance(value, str):
        return value
    is_path = value.startswith((".", "~", "/"))
    is_path |= Path(value).suffix.lower() in FILES and "://" not in value
    # Not Path.expanduser, which raises where nobody is at home.
    return str((folder / os.path.expanduser(value)).resolve()) if is_path else value


REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def place_of(name: str | Path, folder: Path | None = None) -> str | Path:
    """What the name of a model or a suite means, whatever the current folder: an absolute folder,
    or owner/name of a Hub repo as it is. Every loader, check and stamp asks here.

    A Path is a folder, and so is a text that is no owner/name. ValueError for owner/name where the
    current folder, the project or that of its presets (`folder`) has a folder of this name.
    """
    if not isinstance(name, str):
        return Path(name).expanduser().absolute()
    if not REPO.fullmatch(name):
        return str(Path(name).expanduser().absolute())
    for base in (Path.cwd(), project_root(), folder or _params()):
        if (base / name).is_dir():
            raise ValueError(
                f"{name} may mean a Hub repo or the folder {base / name}: give that whole path for "
                "the folder, or rename the folder"
            )
    return name


def scope_values(preset: str, folder: Path | None = None) -> dict[str, Any]:
    """The section `scope:` of a preset's file, as keywords of load_scope; {} where it has none.

    A model or sae that begins with ".", "~" or "/" is a folder, relative to the preset's file; any
    other is owner/name of a Hub repo, or the name of an embedded model. ValueError for an unknown
    name and for what is neither, TypeError for a value of another type than SCOPE_KEYS has.
    """
    values = dict(preset_sections(preset, folder).get("scope", {}))
    for name, value in values.items():
        if name not in SCOPE_KEYS:
            raise ValueError(f"{preset}.yaml, scope: {name!r}; {nearest(name, SCOPE_KEYS)}")
        check_type(f"{preset}.yaml, scope: {name}", value, SCOPE_KEYS[name])
        if name in ("model", "sae"):
            value = values[name] = located(value, folder or _params())
            embedded = name == "model" and value in TINY
            if not (Path(value).is_absolute() or REPO.fullmatch(value) or embedded):
                raise ValueError(
                    f"{preset}.yaml, scope: {name} is {value!r}: begin a folder with ./, ~/ or /, "
                    "or give owner/name of a Hub repo"
                )
            if REPO.fullmatch(value):
                place_of(value, folder)
    return values


def prepare_values(preset: str, folder: Path | None = None) -> dict[str, str]:
    """The section `prepare:` of a preset's file; {} where it has none.

    "model": what its model is made from, a name of loading.packaged or a .gguf file (relative to
    the preset's file); "sae": the notebook that trains its suite. ValueError for another name, and
    for one whose folder the section `scope:` does not name.
    """
    values = preset_sections(preset, folder).get("prepare", {})
    for name, value in values.items():
        if name not in PREPARE_KEYS:
            raise ValueError(f"{preset}.yaml, prepare: {name!r}; {nearest(name, PREPARE_KEYS)}")
        check_type(f"{preset}.yaml, prepare: {name}", value, "")
        if not Path(scope_values(preset, folder).get(name, "")).is_absolute():
            raise ValueError(f"{preset}.yaml: prepare: {name} needs a folder in scope: {name}")
    return {name: located(value, folder or _params()) for name, value in values.items()}


def _params() -> Path:
    return project_root() / "notebooks" / "params"


def preset_sections(preset: str, folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The sections of a preset's file, each a dict."""
    path = (folder or _params()) / f"{preset}.yaml"
    if not path.is_file():
        known = preset_names(path.parent)
        raise ValueError(
            f"preset {preset!r} has no file notebooks/params/{preset}.yaml; "
            + (nearest(preset, known) if known else "set QS_ROOT to the folder of the clone")
        )
    try:
        sections = deepcopy(read_once(path, read_yaml)) or {}
    except ValueError as error:
        raise ValueError(f"{path.name}, {error}") from None
    if not isinstance(sections, dict):
        raise ValueError(f"{path.name}: sections are expected, such as 'common:'")
    for section, found in sections.items():
        if not isinstance(found or {}, dict):
            raise ValueError(f"{path.name}: section {section!r} must hold lines 'NAME: value'")
    return {section: found or {} for section, found in sections.items()}


# Plain words by what YAML 1.2 takes them for, of those that matter; all others are texts.
_PLAIN = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)",
}
_KINDS = {"null": "nothing", "bool": "a truth value", "int": "a number", "float": "a number"}
_KINDS |= {"str": "a text", "timestamp": "a date"}


def read_yaml(text: str) -> Any:
    """A YAML document in which nothing has two meanings. ValueError names the line and the way out.

    Refused is a name that is given twice or is no text, and a plain word that the two versions of
    YAML read differently: no and on are truth values in 1.1, 010 is 8 there, 1:30 is 90 and 1e-1 is
    a text.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_two_meanings(node, "", set())
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1
        problem = error.problem.removeprefix("but ")
        raise ValueError(
            f"line {line}: {problem}; indent with spaces, and put quotes around texts with signs"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _refuse_two_meanings(node: yaml.Node, name: str, seen: set[int]) -> None:
    """Go through a document; `name`: under which a value stands; seen: anchors can make circles."""
    if id(node) in seen:
        return
    seen.add(id(node))
    line = f"line {node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            at, kind = key.start_mark.line + 1, key.tag.rpartition(":")[2]
            if kind not in ("str", "merge"):
                word = key.value if isinstance(key.value, str) else "a list"
                said = f"line {at}: {word} is no name, but {_KINDS.get(kind, kind)}"
                raise ValueError(f"{said}; put it in quotes")
            if kind == "str" and key.value in lines:
                first = lines[key.value]
                raise ValueError(f"line {at}: {key.value} is there twice, first in line {first}")
            lines[key.value] = at
            _refuse_two_meanings(value, key.value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_two_meanings(item, name, seen)
    elif node.style is None:  # no quotes
        word, kind = node.value, node.tag.rpartition(":")[2]
        newer = next((k for k, form in _PLAIN.items() if re.fullmatch(form, word)), "str")
        if kind != newer:
            said = f"{line}, {name}: {word}" if name else f"{line}: {word}"
            kinds = _KINDS.get(kind, kind), _KINDS[newer]
            kinds = ("one number", "another") if kinds[0] == kinds[1] else kinds
            said += f" is {kinds[0]} to some readers and {kinds[1]} to others"
            way = "true or false" if kind == "bool" else "a number in decimals, as 10 or 0.1"
            raise ValueError(f"{said}; write '{word}' in quotes for a text, else {way}")


def read_once(path: Path, parse: Callable[[str], Any]) -> Any:
    """What `parse` makes of a file's text; done once for as long as the file stays the same."""
    stat = path.stat()
    return _parsed(path, parse, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=64)
def _parsed(path: Path, parse: Callable[[str], Any], *_state: int) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line}: not UTF-8; save the file as UTF-8") from None
    return parse(text)


def settings(notebook: str, preset: str, **params) -> SimpleNamespace:
    """The values of one run: the preset's file, with every parameter that is not None on top.

    notebook: file name without .ipynb, such as "01_load"; preset: a name, or "auto".
    The namespace has one attribute per name, and PRESET, the resolved preset.

    Raises ValueError for a parameter that the preset's file does not know (with the nearest
    name), a list with an item twice or MODEL that belongs to another preset, and TypeError for one
    of another type than the file's value, and for items of another type than ITEMS.
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
    for name, value in values.items():
        check_items(name, value)
    if "MODEL" in values:
        check_model(preset, values["MODEL"])
    return SimpleNamespace(PRESET=preset, **values)


LIBRARIES = "torch transformers huggingface_hub safetensors numpy pandas scipy".split()
LIBRARIES += ["scikit-learn", "matplotlib", "qs-helpers"]


def versions() -> dict[str, str]:
    """Versions of Python and of the main libraries, without importing them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
