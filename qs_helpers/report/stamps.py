"""What a run was made of, so that it is known when its outputs no longer belong to their code.

A stamp holds digests of a notebook's code, of the definitions of the helper that this code uses,
of parameters and data, and the versions of the libraries. A definition is a function, a class or
a constant at the top of a module. Its digest leaves out the module's name, formatting, comments,
docstrings and imports, so code that moves to another file, or is only explained better, is the
same as before. Markdown is no part of a stamp either.
"""

import ast
import hashlib
import importlib.metadata
import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..presets import OUTPUT, is_tiny, versions

HELPER = Path(__file__).parents[1]
NO_RUN = "no run yet"
# What texts/pydoc.py reads, by the names of the packages. All that is installed would be too much:
# a suite is not trained again because of a package that no text is from. A test compares the two.
DOCUMENTED = (
    "torch transformers scipy numpy scikit-learn pandas matplotlib sympy networkx ipython pillow "
    "seaborn huggingface_hub pydantic"
).split()

Place = tuple[str, str]  # a module of the helper, "" the package; a name in it, "" the module


def make_stamp(
    cells: list[tuple[str, list[str]]],
    values: dict[str, Any],
    scopes: dict[str, dict[str, Any]],
    passed: dict[str, Any],
) -> dict[str, Any]:
    """The stamp of a notebook as it is now, plain JSON.

    cells: source and tags of each code cell; values: all parameters, of which `passed` are given
    on top of the preset's; scopes: preset to its section `scope:`, for each preset that is read.
    """
    sources = [source for source, tags in cells if "injected-parameters" not in tags]
    tiny = any(is_tiny(name) for name in scopes)
    return {
        "code": digest([plain_source(source) for source in sources]),
        "helper": used_definitions(sources),
        "parameters": digest([values, scopes]),
        "passed": passed,
        "data": digest([_tiny_weights() if tiny else {}, _inputs(values, scopes)]),
        "versions": versions(),
    }


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs, in words: ["the code", "the helper's fvu", "torch 2.12.0, now 2.13.0"].

    A definition that the old run used is the same if one of its name and words is still there.
    """
    if not old:
        return [NO_RUN]
    found = [f"the {part}" for part in ("code", "parameters", "data") if old[part] != new[part]]
    there = known_definitions()
    gone = [n for n, used in old["helper"].items() if not {*used.split()} <= there.get(n, set())]
    if gone:
        found.append(f"the helper's {', '.join(gone)}")
    now = old["versions"] | new["versions"]
    was = old["versions"].items()
    return found + [f"{name} {v}, now {now[name]}" for name, v in was if now[name] != v]


def plain_source(text: str) -> str:
    """Python source without formatting, comments and docstrings; what does not parse as it is."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a magic of IPython
        return text
    return ast.unparse(_without_docstrings(tree))


def _without_docstrings(tree: ast.AST) -> ast.AST:
    """The tree itself, its docstrings taken out."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return tree


def used_definitions(sources: list[str]) -> dict[str, str]:
    """Name to digest of each definition of the helper that some code uses, directly or through
    others. Definitions of the same name share an entry: their digests with a space between."""
    trees = []
    for source in sources:
        try:
            trees.append(ast.parse(source))
        except SyntaxError:
            continue
    notebook = _Module({}, {n: p for tree in trees for n, p in _imports(tree, []).items()})
    left = [place for tree in trees for place in _references(tree, "", notebook)]
    seen: set[Place] = set()
    while left:
        module, name = place = left.pop()
        if place not in seen:
            seen.add(place)
            left += _references(_modules()[module].definitions[name], module, _modules()[module])
    found = _by_name(seen)
    return {name: " ".join(sorted(digests)) for name, digests in sorted(found.items())}


def known_definitions() -> dict[str, set[str]]:
    """Name to digests of all definitions of the helper."""
    return _by_name((m, name) for m, parsed in _modules().items() for name in parsed.definitions)


def forget() -> None:
    """Read the helper's files anew; they are parsed once a process."""
    for kept in (_modules, _definition_digest, _exports):
        kept.cache_clear()


class _Module(NamedTuple):
    definitions: dict[str, ast.stmt]
    imports: dict[str, Place]  # what names imported from the helper stand for


@cache
def _modules() -> dict[str, _Module]:
    """Every module of the helper, by its dotted name; "" is the package itself."""
    found = {}
    for path in sorted(HELPER.rglob("*.py")):
        package = list(path.relative_to(HELPER).parent.parts)
        name = ".".join([*package, path.stem]) if path.stem != "__init__" else ".".join(package)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        definitions = {name: node for node in tree.body for name in _defined(node)}
        found[name] = _Module(definitions, _imports(tree, package))
    return found


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    names = [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]
    return [name for name in names if name != "__all__"]


def _imports(tree: ast.AST, package: list[str]) -> dict[str, Place]:
    """What the names that a tree imports from the helper stand for, seen from a package in it."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root, _, rest = alias.name.partition(".")
                if root == HELPER.name:
                    found[alias.asname or root] = (rest if alias.asname else "", "")
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            if node.level:
                parts = package[: len(package) - node.level + 1] + parts
            elif parts[0] == HELPER.name:
                parts = parts[1:]
            else:
                continue
            found |= {a.asname or a.name: (".".join(parts), a.name) for a in node.names}
    return found


def _references(tree: ast.AST, module: str, names: _Module) -> set[Place]:
    """The definitions of the helper that a tree in a module names."""
    imports = names.imports | _imports(tree, module.split(".")[:-1])

    def place(node: ast.AST) -> Place | None:
        """What a name, or a chain such as qs.views.token_strip, stands for."""
        if isinstance(node, ast.Name):
            if node.id in names.definitions:
                return module, node.id
            return _resolved(*imports[node.id]) if node.id in imports else None
        if isinstance(node, ast.Attribute):
            base = place(node.value)
            return _resolved(base[0], node.attr) if base and not base[1] else None
        return None

    return {found for node in ast.walk(tree) if (found := place(node)) and found[1]}


def _resolved(module: str, name: str) -> Place | None:
    """Where a name of a module is defined, through imports; None if it is not of the helper."""
    modules = _modules()
    if module not in modules:
        return None
    if not name or name in modules[module].definitions:
        return module, name
    if name in modules[module].imports:
        return _resolved(*modules[module].imports[name])
    if name in _exports(module):
        return _resolved(f"{module}.{_exports(module)[name]}".strip("."), name)
    whole = f"{module}.{name}".strip(".")
    return (whole, "") if whole in modules else None


@cache
def _exports(module: str) -> dict[str, str]:
    """Name to module, of a package with a table _NAMES: {module: "name name …"}."""
    table = _modules()[module].definitions.get("_NAMES")
    names = ast.literal_eval(table.value) if table is not None else {}
    return {name: below for below, found in names.items() for name in found.split()}


def _by_name(places) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, name in places:
        found.setdefault(name, set()).add(_definition_digest(module, name))
    return found


@cache
def _definition_digest(module: str, name: str) -> str:
    node = _modules()[module].definitions[name]
    tree = ast.parse(ast.unparse(node))  # a copy, since it is taken apart
    for inner in ast.walk(tree):
        body = getattr(inner, "body", None)
        if isinstance(body, list):
            kept = [n for n in body if not isinstance(n, ast.Import | ast.ImportFrom)]
            inner.body = kept or [ast.Pass()]
    return digest(ast.unparse(_without_docstrings(tree)))[:8]


def _tiny_weights() -> dict[str, str]:
    """Digest of each file of the embedded scopes that is neither source nor prose."""
    files = [path for path in sorted((HELPER / "tiny").rglob("*")) if path.is_file()]
    files = [path for path in files if path.suffix not in (".py", ".pyc", ".md")]
    return {str(path.relative_to(HELPER)): file_digest(path) for path in files}


def _inputs(values: dict[str, Any], scopes: dict[str, dict]) -> dict[str, str]:
    """Digest of each file that parameters name, or that is in a folder of a model or suite; of
    the natural sets, and versions of what pydoc reads, where a parameter names them. What a
    notebook writes is no input."""
    read = [value for name, value in values.items() if name != OUTPUT]
    lists = [value if type(value) is list else [value] for value in read]
    texts = [text for some in lists for text in some if isinstance(text, str) and text]
    texts += [scope.get(part, "") for scope in scopes.values() for part in ("model", "sae")]
    paths = [Path(text) for text in texts if Path(text).is_absolute()]
    files = [f for path in paths for f in ([path] if path.is_file() else sorted(path.glob("*")))]
    found = {str(path): file_digest(path) for path in files if path.is_file()}
    if any(text.partition(":")[0] == "natural" for text in texts):
        sets = sorted((HELPER / "natural").glob("*.jsonl"))
        found |= {f"natural/{path.name}": file_digest(path) for path in sets}
    if any(text.partition(":")[0] == "pydoc" for text in texts):
        found |= {f"pydoc {name}": version for name, version in _documentation().items()}
    return found


def _documentation() -> dict[str, str]:
    """The version of each of DOCUMENTED that is installed; that of Python is in every stamp."""
    found = {}
    for name in DOCUMENTED:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def file_digest(path: Path) -> str:
    """Digest of a file's content; of one above 100 MB, of its size and time."""
    stat = path.stat()
    if stat.st_size > 1e8:
        return digest([path.name, stat.st_size, stat.st_mtime_ns])
    return _content_digest(path, stat.st_size, stat.st_mtime_ns)


@cache
def _content_digest(path: Path, *_state: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def digest(value: Any) -> str:
    """Digest of a value that JSON can hold; what it cannot hold counts as its text."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]
