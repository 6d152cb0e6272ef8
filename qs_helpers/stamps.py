"""What a run was made of, so that it is known when its outputs no longer belong to their code.

make_stamp         digests of code, helper, parameters, data and versions of one run
changes            what differs between a stamp and what is there now, in words
committed_changes  what no longer belongs to a committed notebook's code, in words
outputs_digest     digest of the outputs of a notebook and of the files that it wrote
used_modules       digests of the helper's modules that a run used
plain_source       Python source without its comments and docstrings

Prose is free: neither markdown nor a comment or docstring of the helper changes a stamp.
"""

import ast
import hashlib
import io
import json
import re
import tokenize
from pathlib import Path
from typing import Any

from . import _HOME
from .files import plain
from .preflight import code_sources
from .presets import is_tiny, preset_names, preset_values, scope_values
from .provenance import versions

__all__ = [
    "changes",
    "committed_changes",
    "make_stamp",
    "outputs_digest",
    "plain_source",
    "used_modules",
]

HELPER = Path(__file__).parent
_KNOWN: dict[tuple, str] = {}  # digests of files as they were


def make_stamp(
    notebook: Path,
    preset: str,
    passed: dict[str, Any],
    modules: list[str] | None = None,
    params: Path | None = None,
) -> dict[str, Any]:
    """The stamp of a notebook as it is now, plain JSON.

    passed: parameters on top of the preset's; modules: those of the helper that the run used,
    None for all of them; params: the folder of the presets' files.
    """
    values = preset_values(notebook.stem, preset, params) | passed
    scopes = _scopes(preset, values, params)
    tiny = any(is_tiny(name) for name in scopes)
    helper = _helper_digests()
    return {
        "code": _digest(
            [source for source, tags in code_sources(notebook) if "injected-parameters" not in tags]
        ),  # fmt: skip
        "helper": {name: helper.get(name, "gone") for name in sorted(modules or helper)},
        "parameters": _digest([values, scopes]),
        "passed": passed,
        "data": _digest([_tiny_weights() if tiny else {}, _inputs(values, scopes)]),
        "versions": versions(),
    }


def _scopes(preset: str, values: dict[str, Any], params: Path | None) -> dict[str, dict]:
    """Preset to its section `scope:`, for the preset and those that parameters name."""
    named = [preset, *values.get("MODELS", []), *values.get("SUITES", [])]
    known = preset_names(params)
    return {name: scope_values(name, params) for name in named if name in known}


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs, in words: ["the code", "the helper's sae", "torch 2.12.0, now 2.13.0"]."""
    if not old:
        return ["no run yet"]
    found = [f"the {part}" for part in ("code", "parameters", "data") if old[part] != new[part]]
    helper = [name for name, value in old["helper"].items() if new["helper"].get(name) != value]
    if helper:
        found.append(f"the helper's {', '.join(helper)}")
    for name, version in old["versions"].items():
        now = new["versions"].get(name, version)
        if now != version:
            found.append(f"{name} {version}, now {now}")
    return found


def outputs_digest(notebook: Path, folder: Path) -> str:
    """Digest of a notebook's outputs and of results.json and figures/ in a folder."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [cell.get("outputs", []) for cell in cells if cell["cell_type"] == "code"]
    files = [folder / "results.json", *sorted(folder.glob("**/*.png")), *folder.glob("**/*.csv")]
    return _digest([outputs, {path.name: _file(path) for path in files if path.is_file()}])


def committed_changes(notebook: Path, root: Path, preset: str = "tiny") -> list[str]:
    """What differs between a committed notebook's stamp and its code, helper, parameters, data,
    locked versions and outputs; ["no run yet"] if it has no stamp."""
    metadata = json.loads(notebook.read_text(encoding="utf-8")).get("metadata", {})
    old = metadata.get("qs")
    if not old:
        return ["no run yet"]
    new = make_stamp(notebook, preset, {}, [*old["helper"]], root / "notebooks" / "params")
    # Versions are those of the lock, not of the machine that asks; "+cpu" is no part of them.
    new["versions"] = _locked(root / "requirements.lock")
    old = old | {"versions": {n: v.partition("+")[0] for n, v in old["versions"].items()}}
    found = changes(old, new)
    if outputs_digest(notebook, root / "figures" / notebook.stem) != old["outputs"]:
        found.append("its outputs")
    return found


def used_modules(notebook: Path, loaded: list[str] | None, helper: dict[str, str]):
    """Of the digests of the helper's modules, those that a run loaded; all if it did not say.

    loaded: as results.json has them, at the last record; modules of names that the notebook's
    code uses after that are added.
    """
    if not loaded:
        return helper
    code = "\n".join(source for source, _ in code_sources(notebook))
    named = {_HOME.get(name) for name in re.findall(r"\bqs\.(\w+)", code)} - {None}
    return {name: helper[name] for name in sorted({*loaded, *named}) if name in helper}


def _locked(lock: Path) -> dict[str, str]:
    """Library to version of the lines NAME==VERSION of a lock file, by the names of `versions`."""
    if not lock.is_file():
        return {}
    lines = re.findall(r"^([\w.-]+)==([\w.+-]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    asked = dict(lines)
    return {n: asked[k] for n in versions() if (k := n.replace("_", "-")) in asked}


def plain_source(text: str) -> str:
    """Python source without comments, docstrings and blank lines; the rest is as it was."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = body[0] if body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    for row in range(first.lineno - 1, first.end_lineno):
                        lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _helper_digests() -> dict[str, str]:
    """Module name, such as "tiny.corpus", to the digest of its source."""
    found = {}
    for path in sorted(HELPER.rglob("*.py")):
        name = ".".join(path.relative_to(HELPER).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = _state(_source, path)
    return found


def _source(path: Path) -> str:
    return _digest(plain_source(path.read_text(encoding="utf-8")))


def _tiny_weights() -> dict[str, str]:
    """Digest of each file of the embedded scopes that is no source and no prose."""
    return {
        str(path.relative_to(HELPER)): _file(path)
        for path in sorted((HELPER / "tiny").rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
    }


def _inputs(values: dict[str, Any], scopes: dict[str, dict]) -> dict[str, str]:
    """Digest of each file that parameters name, or that is in a folder of a model or suite."""
    lists = [value if type(value) is list else [value] for value in values.values()]
    texts = [text for some in lists for text in some if isinstance(text, str) and text]
    texts += [scope.get(part, "") for scope in scopes.values() for part in ("model", "sae")]
    paths = [Path(text) for text in texts if Path(text).is_absolute()]
    files = [f for path in paths for f in ([path] if path.is_file() else sorted(path.glob("*")))]
    return {str(path): _file(path) for path in files if path.is_file()}


def _file(path: Path) -> str:
    """Digest of a file's content; of one above 100 MB, of its size and time."""
    if path.stat().st_size > 1e8:
        return _digest([path.name, path.stat().st_size, path.stat().st_mtime_ns])
    return _state(lambda file: hashlib.sha256(file.read_bytes()).hexdigest()[:16], path)


def _state(digest, path: Path) -> str:
    """digest(path), computed once while neither size nor time of the file change."""
    key = path, path.stat().st_size, path.stat().st_mtime_ns
    if key not in _KNOWN:
        _KNOWN[key] = digest(path)
    return _KNOWN[key]


def _digest(value: Any) -> str:
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
