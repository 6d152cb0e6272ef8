"""The notebooks of a project, and the record of one notebook's run: what goes in and comes out."""

import ast
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .. import presets
from ..loading.catalog import Origin, find_origin, layer_files
from . import stamps

BUILD = "00_build_tiny_scope"  # trains the embedded scope for an hour
TRAIN = "10_train_suite"  # trains SAEs of a model that has none, for presets with such a section
RESULTS = "results.json"  # what a notebook recorded; in the folder of a report, how each one ended
CLAIMS = "claims"  # a folder beside the results, of the samples of headline claims
SUITE = "suite"  # a folder beside the results, of the SAEs that 10 trains where OUT is empty
STOPPED = "stopped before its end"  # the error of a notebook that Ctrl-C ended
STAMP = "stamp.json"  # what a run was made of; written last, so it also says that the run is whole

TYPES = {"str": "", "int": 0, "float": 0.0, "bool": False, "list": [], "dict": {}}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document, or {} where there is none; read once for as long as it stays the same."""
    try:
        return presets.read_once(path, json.loads) if path.is_file() else {}
    except ValueError:
        raise ValueError(
            f"{near(path)} is not JSON; remove it, and its notebook runs again"
        ) from None


def near(path: Path, start: Path | None = None) -> str:
    """A path as seen from a folder, by default the current one; whole if on another drive."""
    try:
        return os.path.relpath(path, start)
    except ValueError:
        return str(path)


def find_notebooks(
    folder: Path,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    asked: str = "--only",
) -> list[Path]:
    """The notebooks NN_*.ipynb of a folder, sorted; `only` and `skip` are numbers or names.

    00 is left out unless it is named. ValueError for an unknown name, with the nearest one, and if
    nothing is left. asked: the flag that gave `only`, for the error.
    """
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    for flag, names in ((asked, only), ("--skip", skip)):
        for name in names or []:
            if not any(name in (p.stem, p.stem[:2]) for p in every):
                raise ValueError(f"{flag} {name}: {presets.nearest(name, [p.stem for p in every])}")
    if not every:
        raise ValueError("no notebooks found: notebooks/01_*.ipynb and on are expected")
    kept, left_out = set(only or [p.stem for p in every if p.stem != BUILD]), set(skip or [])
    names = {path: {path.stem, path.stem[:2]} for path in every}
    chosen = [path for path in every if names[path] & kept and not names[path] & left_out]
    if not chosen:
        raise ValueError("no notebook is left to run: give other --only or --skip")
    return chosen


def code_sources(notebook: Path) -> list[tuple[str, list[str]]]:
    """Source and tags of each code cell of a notebook."""
    try:
        cells = [cell for cell in read_json(notebook)["cells"] if cell["cell_type"] == "code"]
        return [("".join(c["source"]), c.get("metadata", {}).get("tags", [])) for c in cells]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{notebook.name} is not a notebook; restore it") from None


def declared(notebook: Path) -> dict[str, Any]:
    """Name to a value of the declared type, of the cell tagged `parameters`; None for any type.

    What the notebook reads as `cfg.NAME` is a parameter too: a size or a budget of the preset,
    which `-p` may give, and whose type is that of the preset's value. PRESET is not among them: it
    is chosen for the whole report.
    """
    sources = code_sources(notebook)
    read = re.findall(r"\bcfg\.([A-Z][A-Z0-9_]*)\b", "\n".join(source for source, _ in sources))
    others = dict.fromkeys(name for name in read if name != "PRESET")
    for source, tags in sources:
        if "parameters" in tags:
            lines = [line for line in ast.parse(source).body if isinstance(line, ast.AnnAssign)]
            kinds = {line.target.id: line.annotation for line in lines}
            kinds.pop("PRESET", None)
            # list[int] is a list: its items are checked against those of the preset's value.
            names = {name: getattr(kind, "value", kind) for name, kind in kinds.items()}
            given = {name: TYPES.get(getattr(kind, "id", "")) for name, kind in names.items()}
            return others | given
    return others


class Preset(NamedTuple):
    """A preset of a project: its name, and the folder of the presets' files."""

    name: str
    folder: Path

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        return presets.preset_sections(self.name, self.folder)

    @property
    def scope(self) -> dict[str, Any]:
        """The keywords of load_scope that the file gives."""
        return presets.scope_values(self.name, self.folder)

    @property
    def prepare(self) -> dict[str, str]:
        """What the model is made from and the notebook (its stem) that trains the suite, if any."""
        return presets.prepare_values(self.name, self.folder)

    @property
    def others(self) -> list[str]:
        """All presets that have a file."""
        return presets.preset_names(self.folder)

    @property
    def origin(self) -> Origin:
        return find_origin(self.name, self.folder)

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The layers that have an SAE, or will have; None where neither catalog nor folder says."""
        if (maker := self.prepare.get("sae")) and "LAYERS" in (values := self.values(maker)):
            return tuple(sorted(values["LAYERS"])) or None
        origin = self.origin
        if origin.group is not None:
            return origin.group.layers
        folder = Path(origin.sae)
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return tuple(layer_files(names)) or None

    def values(self, notebook: str) -> dict[str, Any]:
        """The parameters of a notebook (its stem)."""
        return presets.preset_values(notebook, self.name, self.folder)


@dataclass(frozen=True)
class Run:
    """One notebook's run on a preset. `out` is the folder of the report that it belongs to."""

    notebook: Path  # <root>/notebooks/<stem>.ipynb
    preset: Preset
    out: Path  # <root>/runs/<preset>
    passed: dict[str, Any] = field(default_factory=dict)  # parameters on top of the preset's

    @property
    def stem(self) -> str:
        return self.notebook.stem

    @property
    def folder(self) -> Path:
        """What the notebook writes goes here: results and figures."""
        return self.out / self.stem

    @property
    def executed(self) -> Path:
        """The executed copy of the notebook, also one that stopped half-way."""
        return self.out / self.notebook.name

    @property
    def results(self) -> Path:
        return self.folder / RESULTS

    @property
    def written(self) -> Path | None:
        """The folder that the notebook writes outside of `out`, as an SAE suite; None without."""
        folder = self.values.get(presets.OUTPUT)
        return Path(folder) if folder else None

    @property
    def own_suite(self) -> Path | None:
        """The folder of the SAEs that it trains, unless that was given with -p: None as well."""
        if presets.OUTPUT not in self.values or self.passed.get(presets.OUTPUT):
            return None
        return self.written or self.folder / SUITE

    @property
    def outputs(self) -> str:
        """Digest of all that the run wrote."""
        saes = layer_files(p.name for p in self.written.glob("*")) if self.written else {}
        files = [stamps.file_digest(self.written / name) for name in saes.values()]
        found = outputs_digest(self.executed, self.folder)
        return stamps.digest([found, files]) if self.written else found

    @property
    def stamp(self) -> dict[str, Any]:
        """What the run was made of; {} unless it ended well."""
        return read_json(self.folder / STAMP)

    @property
    def figures(self) -> Path:
        """The folder of the committed figures and results."""
        return self.notebook.parents[1] / "figures" / self.stem

    @property
    def values(self) -> dict[str, Any]:
        """All parameters: those of the preset, with what was passed on top."""
        return self.preset.values(self.stem) | self.passed

    def new_stamp(self) -> dict[str, Any]:
        """The stamp that a run would have now."""
        values, known = self.values, self.preset.others
        named = [self.preset.name, *values.get("MODELS", []), *values.get("SUITES", [])]
        named += [values[name] for name in ("SUITE", "OTHER") if name in values]
        scopes = {n: self.preset._replace(name=n).scope for n in named if n in known}
        if self.stem == self.preset.prepare.get("sae"):
            del scopes[self.preset.name]["sae"]  # what it writes is not what it reads
        return stamps.make_stamp(code_sources(self.notebook), values, scopes, self.passed)

    def changes(self) -> list[str]:
        """What has changed since the run, in words; [] if nothing has."""
        if not self.stamp:
            return [stamps.NO_RUN]
        found = stamps.changes(self.stamp, self.new_stamp())
        whole = self.executed.is_file() and self.outputs == self.stamp["outputs"]
        return found or ([] if whole else ["its outputs"])

    def why_stale(self) -> str:
        """Why the notebook must run, in words; "" if what it would give is there."""
        found = self.changes()
        return ("changed: " * bool(self.stamp) + ", ".join(found)) if found else ""

    def committed_changes(self) -> list[str]:
        """What differs between the committed notebook's stamp and its code, helper, parameters,
        data, locked versions and outputs; ["no run yet"] if it has no stamp."""
        old = read_json(self.notebook).get("metadata", {}).get("qs")
        if not old:
            return [stamps.NO_RUN]
        # Versions are those of the lock, not of the machine that asks; "+cpu" is no part of them.
        new = self.new_stamp() | {"versions": _locked(self.notebook.parents[1])}
        old = old | {"versions": {n: v.partition("+")[0] for n, v in old["versions"].items()}}
        found = stamps.changes(old, new)
        same = outputs_digest(self.notebook, self.figures) == old["outputs"]
        return found if same else [*found, "its outputs"]


class Outcome(NamedTuple):
    """How one notebook ended."""

    run: Run
    seconds: float
    error: str | None  # one line
    kept: str | None = None  # why it was not run again, in words

    @property
    def status(self) -> str:
        return "stopped" if self.error == STOPPED else "failed" if self.error else "done"


def outputs_digest(notebook: Path, folder: Path) -> str:
    """Digest of a notebook's outputs, and of the results, figures and samples in a folder."""
    cells = read_json(notebook)["cells"]
    outputs = [cell.get("outputs", []) for cell in cells if cell["cell_type"] == "code"]
    files = [folder / RESULTS, *sorted(folder.glob("**/*.png")), *folder.glob("**/*.csv")]
    # A report has figures in a folder of their own, a commit has not; samples always are in one.
    names = {p: f"{CLAIMS}/{p.name}" if p.parent.name == CLAIMS else p.name for p in files}
    found = {names[path]: stamps.file_digest(path) for path in files if path.is_file()}
    return stamps.digest([outputs, found])


def _locked(root: Path) -> dict[str, str]:
    """Library to version in requirements.lock, by the names of `versions`."""
    lock = root / "requirements.lock"
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    asked = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", text, re.MULTILINE))
    return {n: asked[k] for n in presets.versions() if (k := n.replace("_", "-")) in asked}
