"""Runs side by side on one page: claims, headline numbers and the figures that differ."""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

from ..evidence.files import plain, read_json
from ..presets import is_tiny
from .pages import provenance_rows, render_page, templates


def compare_runs(folders: list[Path], out: Path | None = None) -> Path:
    """Write a static page that compares two or more folders of runs/; return its path.

    out: the page, by default runs/compare/<names>.html beside the runs. ValueError for a folder
    that holds no run, for one given twice, or fewer than two.
    """
    folders = [Path(folder).resolve() for folder in folders]
    names = [folder.name for folder in folders]
    if len(set(folders)) < len(folders) or len(folders) < 2:
        raise ValueError("give two or more different folders of runs, such as runs/tiny runs/A")
    if len(set(names)) < len(names):
        names = [os.path.relpath(folder) for folder in folders]  # they are different folders
    runs = {}
    for name, folder in zip(names, folders, strict=True):
        found = {path.parent.name: read_json(path) for path in folder.glob("*/results.json")}
        found = {stem: results for stem, results in found.items() if "claims" in results}
        if not found:
            raise ValueError(f"{os.path.relpath(folder)} holds no run; make one with qs-report")
        runs[name] = found
    every = sorted({stem for found in runs.values() for stem in found})
    stems = [stem for stem in every if sum(stem in found for found in runs.values()) > 1]
    alone = {stem: [name for name, found in runs.items() if stem in found] for stem in every}
    runs = {name: {stem: r for stem, r in found.items() if stem in stems}
            for name, found in runs.items()}  # fmt: skip
    parts = [_notebook(stem, runs, dict(zip(names, folders, strict=True))) for stem in stems]
    page = templates().get_template("compare.html.j2")
    single = {stem: where[0] for stem, where in alone.items() if stem not in stems}
    body = page.render(names=names, parts=parts, about=_about(runs), single=single)
    title = "-vs-".join(name.replace("/", "-") for name in names)
    out = out or folders[0].parent / "compare" / f"{title}.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    tiny = any(is_tiny(r.get("preset", "")) for found in runs.values() for r in found.values())
    indices = {name: folder / "index.html" for name, folder in zip(names, folders, strict=True)}
    links = [(os.path.relpath(path, out.parent) * path.is_file(), n) for n, path in indices.items()]
    out.write_text(render_page("Runs compared", body, "compared", tiny, links), encoding="utf-8")
    return out


def differs(entries: list[dict[str, Any] | None]) -> str:
    """How one claim differs between runs, in words; "" where it does not.

    A difference of values counts where intervals lie apart; without intervals, where the values
    are not the same.
    """
    there = [entry for entry in entries if entry]
    if len(there) < len(entries):
        return "not in every run"
    if len({entry["badge"] for entry in there}) > 1:
        return "verdicts differ"
    intervals = [entry.get("interval") for entry in there]
    if all(intervals) and any(interval[0] != interval[1] for interval in intervals):
        lows, highs = ([float(end) for end in ends] for ends in zip(*intervals, strict=True))
        apart = max(lows) > min(highs)  # an end may be "inf"
        return "intervals lie apart" if apart else ""
    values = {str(plain(entry["value"])) for entry in there}
    return "values differ" if len(values) > 1 else ""


def _notebook(stem: str, runs: dict[str, dict], folders: dict[str, Path]) -> dict[str, Any]:
    """Claims, values and figures of one notebook in every run."""
    results = {name: found.get(stem, {}) for name, found in runs.items()}
    claims = {name: {c["text"]: c for c in r.get("claims", [])} for name, r in results.items()}
    values = {name: _numbers(r.get("values", {})) for name, r in results.items()}
    figures = {
        name: {f["slug"]: f["alt"] for f in r.get("figures", [])} for name, r in results.items()
    }
    rows = []
    for text in _ordered(claims):
        entries = [claims[name].get(text) for name in runs]
        rows.append({"text": text, "entries": entries, "differs": differs(entries)})
    numbers = []
    for name in _ordered(values):
        cells = [values[run].get(name) for run in runs]
        if len({str(cell) for cell in cells}) > 1:
            numbers.append({"name": name, "cells": cells})
    pictures = []
    for slug in _ordered(figures):
        there = {name: folders[name] / stem / "figures" / f"{slug}.png" for name in runs}
        files = {name: path.read_bytes() if path.is_file() else b"" for name, path in there.items()}
        if len({hashlib.sha256(png).digest() for png in files.values()}) > 1:
            pictures.append({"slug": slug, "images": [
                (name, figures[name].get(slug, ""), base64.b64encode(png).decode())
                for name, png in files.items()
            ]})  # fmt: skip
    unfinished = [name for name in runs if not _finished(folders[name], stem)]
    found = {"claims": rows, "numbers": numbers, "figures": pictures}
    return {"stem": stem, "unfinished": unfinished} | found


def _finished(folder: Path, stem: str) -> bool:
    """Whether a notebook ended well: its stamp is the last thing that a run writes."""
    return (folder / stem / "stamp.json").is_file()


def _about(runs: dict[str, dict]) -> list[dict[str, Any]]:
    """Parameters, provenance and versions that are not the same in every run."""
    described = {}
    for name, found in runs.items():
        rows = {}
        for stem, results in sorted(found.items()):
            for key, value in provenance_rows(results):
                # What is of the machine or the library is said once, not for every notebook.
                once = key.startswith("versions.") or key in ("device", "dtype", "cores")
                rows.setdefault(key if once else f"{stem}: {key}", value)
        described[name] = rows
    table = [{"name": key, "cells": [described[name].get(key) for name in runs]}
             for key in _ordered(described) if not key.endswith(": started")]  # fmt: skip
    return [row for row in table if len(set(row["cells"])) > 1]


def _numbers(values: Any, name: str = "") -> dict[str, float]:
    """The numbers in nested values, by dotted name."""
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = enumerate(values)
    else:
        return {name: values} if type(values) in (int, float) else {}
    found = {}
    for key, value in items:
        found |= _numbers(value, f"{name}.{key}" if name else str(key))
    return found


def _ordered(tables: dict[str, dict]) -> list[str]:
    """Keys of all tables, in the order in which they are first met."""
    return list(dict.fromkeys(key for table in tables.values() for key in table))
