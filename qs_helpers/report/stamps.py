"""What a run was made of, so that it is known when its outputs no longer belong to their code.

A stamp holds digests of a notebook's code, of the definitions of the helper that this code uses,
of parameters and data, and the versions of the libraries. A definition is a function, a class or
a constant at the top of a module, under its name and without the name of its module: what moves
to another file is still the same. Formatting, comments, docstrings and markdown are free.
"""

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..evidence.files import plain
from ..presets import is_tiny, preset_names, preset_values, scope_values, versions
from .check import code_sources

HELPER = Path(__file__).parents[1]


_KNOWN: dict[tuple, str] = {}  # digests of files as they were


def make_stamp(
    notebook: Path, preset: str, passed: dict[str, Any], params: Path | None = None
) -> dict[str, Any]:
    """The stamp of a notebook as it is now, plain JSON.

    passed: parameters on top of the preset's; params: the folder of the presets' files.
    """
    values = preset_values(notebook.stem, preset, params) | passed
    scopes = _scopes(preset, values, params)
    tiny = any(is_tiny(name) for name in scopes)
    sources = [s for s, tags in code_sources(notebook) if "injected-parameters" not in tags]
    return {
        "code": _digest([plain_source(source) for source in sources]),
        "helper": used_definitions(sources),
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
    """What differs, in words: ["the code", "the helper's fvu", "torch 2.12.0, now 2.13.0"].

    A definition that the old run used is the same if one of its name and words is still there.
    """
    if not old:
        return ["no run yet"]
    found = [f"the {part}" for part in ("code", "parameters", "data") if old[part] != new[part]]
    there = known_definitions()
    helper = [
        name
        for name, digests in old["helper"].items()
        if not set(digests.split()) <= there.get(name, set())
    ]
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
    new = make_stamp(notebook, preset, {}, root / "notebooks" / "params")
    # Versions are those of the lock, not of the machine that asks; "+cpu" is no part of them.
    new["versions"] = _locked(root / "requirements.lock")
    old = old | {"versions": {n: v.partition("+")[0] for n, v in old["versions"].items()}}
    found = changes(old, new)
    if outputs_digest(notebook, root / "figures" / notebook.stem) != old["outputs"]:
        found.append("its outputs")
    return found


def _locked(lock: Path) -> dict[str, str]:
    """Library to version of the lines NAME==VERSION of a lock file, by the names of `versions`."""
    if not lock.is_file():
        return {}
    lines = re.findall(r"^([\w.-]+)==([\w.+-]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    asked = dict(lines)
    return {n: asked[k] for n in versions() if (k := n.replace("_", "-")) in asked}


def plain_source(text: str) -> str:
    """Python source without formatting, comments and docstrings; what does not parse as it is."""
    try:
        return _plain(ast.parse(text))
    except SyntaxError:  # a magic of IPython
        return text


def _plain(tree: ast.AST) -> str:
    """Source of a tree that is given up: docstrings, and imports inside functions, taken out."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = body[0] if body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    del body[0]
    return ast.unparse(tree)


class _Module(NamedTuple):
    """The definitions of a module, and what its imported names stand for: (module, name or "")."""

    definitions: dict[str, ast.stmt]
    imports: dict[str, tuple[str, str]]


def used_definitions(sources: list[str]) -> dict[str, str]:
    """Name to digest of every definition of the helper that some code uses, whatever the way.

    Definitions of the same name share an entry, their digests with a space between.
    """
    imports: dict[str, tuple[str, str]] = {}
    trees = []
    for source in sources:
        try:
            trees.append(ast.parse(source))
        except SyntaxError:
            continue
        imports |= _imports(trees[-1], "")
    modules = _modules()
    left = [place for tree in trees for place in _references(tree, {}, imports, "")]
    seen: set[tuple[str, str]] = set()
    while left:
        place = left.pop()
        if place in seen:
            continue
        seen.add(place)
        module = modules[place[0]]
        node = module.definitions[place[1]]
        inside = module.imports | _imports(node, place[0])
        left += _references(node, module.definitions, inside, place[0])
    found: dict[str, set[str]] = {}
    for module, name in seen:
        found.setdefault(name, set()).add(_definition_digest(module, name))
    return {name: " ".join(sorted(digests)) for name, digests in sorted(found.items())}


def known_definitions() -> dict[str, set[str]]:
    """Name to digests of all definitions of the helper."""
    found: dict[str, set[str]] = {}
    for module, parsed in _modules().items():
        for name in parsed.definitions:
            found.setdefault(name, set()).add(_definition_digest(module, name))
    return found


@cache
def _modules() -> dict[str, _Module]:
    """Every module of the helper, by its dotted name; "" is the package itself."""
    found = {}
    for path in sorted(HELPER.rglob("*.py")):
        name = ".".join(path.relative_to(HELPER).with_suffix("").parts)
        name = "" if name == "__init__" else name.removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        definitions = {name: node for node in tree.body for name in _defined(node)}
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = _Module(definitions, _imports(tree, name, package))
    return found


@cache
def _definition_digest(module: str, name: str) -> str:
    node = _modules()[module].definitions[name]
    tree = ast.parse(ast.unparse(node))  # a copy: what is taken out of it stays in the other
    for inner in ast.walk(tree):
        body = getattr(inner, "body", None)
        if isinstance(body, list):  # where something is imported from is no part of a definition
            kept = [n for n in body if not isinstance(n, ast.Import | ast.ImportFrom)]
            inner.body = kept or [ast.Pass()]
    return _digest(_plain(tree))[:8]


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    names = [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]
    return [name for name in names if name != "__all__"]


def _imports(tree: ast.AST, module: str, package: str | None = None) -> dict[str, tuple[str, str]]:
    """What the names that a tree imports from the helper stand for."""
    package = module.rpartition(".")[0] if package is None else package
    root, found = HELPER.name, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == root:
                    whole = alias.name.partition(".")[2]
                    found[alias.asname or root] = (whole if alias.asname else "", "")
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parts = package.split(".") if package else []
                parts = parts[: len(parts) - node.level + 1]
                parts += node.module.split(".") if node.module else []
            elif (node.module or "").split(".")[0] == root:
                parts = node.module.split(".")[1:]
            else:
                continue
            for alias in node.names:
                found[alias.asname or alias.name] = (".".join(parts), alias.name)
    return found


def _references(
    tree: ast.AST, local: dict[str, Any], imports: dict[str, tuple[str, str]], module: str
) -> set[tuple[str, str]]:
    """(module, name) of the definitions of the helper that a tree names."""
    found = set()
    for node in ast.walk(tree):
        place = None
        if isinstance(node, ast.Name):
            if node.id in local:
                place = (module, node.id)
            elif node.id in imports:
                place = _resolved(*imports[node.id])
        elif isinstance(node, ast.Attribute):
            place = _attribute(node, imports)
        if place is not None and place[1]:
            found.add(place)
    return found


def _attribute(node: ast.expr, imports: dict) -> tuple[str, str] | None:
    """What a chain such as qs.views.token_strip stands for; None outside of the helper."""
    if isinstance(node, ast.Name):
        return _resolved(*imports[node.id]) if node.id in imports else None
    if isinstance(node, ast.Attribute):
        base = _attribute(node.value, imports)
        if base is not None and not base[1]:
            return _resolved(base[0], node.attr)
    return None


def _resolved(module: str, name: str) -> tuple[str, str] | None:
    """(module, name) of the definition that a name of a module stands for, (module, "") for a
    module; None if there is neither."""
    modules = _modules()
    if module not in modules:
        return None
    if not name or name in modules[module].definitions:
        return module, name
    if name in modules[module].imports:
        return _resolved(*modules[module].imports[name])
    for below, names in _exports(module).items():
        if name in names.split():
            return _resolved(f"{module}.{below}".strip("."), name)
    whole = f"{module}.{name}".strip(".")
    return (whole, "") if whole in modules else None


@cache
def _exports(module: str) -> dict[str, str]:
    """{module: "name name …"} of a package that loads its names when they are first used."""
    definitions = _modules()[module].definitions
    table = definitions.get("_NAMES")
    return ast.literal_eval(table.value) if table is not None else {}


def forget() -> None:
    """Read the helper's files anew; they are parsed once a process."""
    for kept in (_modules, _definition_digest, _exports):
        kept.cache_clear()


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
    stat = path.stat()
    if stat.st_size > 1e8:
        return _digest([path.name, stat.st_size, stat.st_mtime_ns])
    key = path, stat.st_size, stat.st_mtime_ns
    if key not in _KNOWN:
        _KNOWN[key] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return _KNOWN[key]


def _digest(value: Any) -> str:
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
