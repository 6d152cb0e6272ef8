"""Runs side by side on one page: claims, headline numbers and the figures that differ."""

import base64
from pathlib import Path
from typing import Any

from ..evidence.files import plain, read_json
from ..presets import is_tiny
from .pages import provenance_rows, render, write_page
from .run import RESULTS, STAMP, near


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
        names = [near(folder) for folder in folders]  # they are different folders
    where = dict(zip(names, folders, strict=True))
    runs = {}
    for name, folder in where.items():
        found = {path.parent.name: read_json(path) for path in folder.glob(f"*/{RESULTS}")}
        runs[name] = {stem: results for stem, results in found.items() if "claims" in results}
        if not runs[name]:
            raise ValueError(f"{near(folder)} holds no run; make one with qs-report")
    every = sorted({stem for found in runs.values() for stem in found})
    there = {stem: [name for name, found in runs.items() if stem in found] for stem in every}
    stems = [stem for stem in every if len(there[stem]) > 1]
    single = {stem: there[stem][0] for stem in every if stem not in stems}
    for found in runs.values():
        for stem in single.keys() & found.keys():
            del found[stem]
    parts = [_notebook(stem, runs, where) for stem in stems]
    body = render("compare", names=names, parts=parts, about=_about(runs), single=single)
    title = "-vs-".join(name.replace("/", "-") for name in names)
    out = out or folders[0].parent / "compare" / f"{title}.html"
    links = [(_link(folder / "index.html", out), name) for name, folder in where.items()]
    about = {"title": "Runs compared", "name": "compared", "links": links}
    about["tiny"] = any(is_tiny(r.get("preset", "")) for f in runs.values() for r in f.values())
    write_page(out, render("page", body=body, **about))
    return out


def _link(page: Path, origin: Path) -> str:
    """The address of a page on another one; "" if it is not there."""
    found = Path(near(page, origin.parent))
    address = found.as_uri() if found.is_absolute() else found.as_posix()
    return address if page.is_file() else ""


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
    claims = {name: {c["id"]: c for c in r.get("claims", [])} for name, r in results.items()}
    values = {name: _numbers(r.get("values", {})) for name, r in results.items()}
    alts = {
        name: {f["slug"]: f["alt"] for f in r.get("figures", [])} for name, r in results.items()
    }
    rows = [
        {"id": id, "asks": _asked(id, cells), "entries": cells, "differs": differs(cells)}
        for id, cells in _aligned(claims)
    ]
    numbers = [
        {"name": name, "cells": cells}
        for name, cells in _aligned(values)
        if len(set(map(str, cells))) > 1
    ]
    pictures = []
    for slug, texts in _aligned(alts):
        paths = [folders[name] / stem / "figures" / f"{slug}.png" for name in runs]
        pngs = [path.read_bytes() if path.is_file() else b"" for path in paths]
        if len(set(pngs)) > 1:
            coded = [base64.b64encode(png).decode() for png in pngs]
            images = zip(runs, [text or "" for text in texts], coded, strict=True)
            pictures.append({"slug": slug, "images": list(images)})
    # A notebook ended well if it has a stamp, the last thing that a run writes.
    unfinished = [name for name in runs if not (folders[name] / stem / STAMP).is_file()]
    found = {"claims": rows, "numbers": numbers, "figures": pictures}
    return {"stem": stem, "unfinished": unfinished} | found


def _asked(id: str, entries: list[dict[str, Any] | None]) -> str:
    """What all runs asked, or stated of an invariant; "" where they differ."""
    asked = {entry.get("asks", entry["sentence"]) for entry in entries if entry}
    member = id.partition("/")[2]
    return asked.pop() + (f" ({member})" if member else "") if len(asked) == 1 else ""


def _about(runs: dict[str, dict]) -> list[dict[str, Any]]:
    """Parameters, provenance and versions that are not the same in every run."""
    described = {}
    for name, found in runs.items():
        rows = {}
        for stem, results in sorted(found.items()):
            for key, value in provenance_rows(results):
                # The same in all notebooks of a run: said once.
                once = key.startswith("versions.") or key in ("device", "dtype", "cores")
                rows.setdefault(key if once else f"{stem}: {key}", value)
        described[name] = rows
    table = [{"name": key, "cells": cells} for key, cells in _aligned(described)]
    wanted = [row for row in table if not row["name"].endswith(": started")]
    return [row for row in wanted if len(set(row["cells"])) > 1]


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


def _aligned(tables: dict[str, dict]) -> list[tuple[str, list]]:
    """Each key, in the order of its first appearance, with its value in every table or None."""
    keys = dict.fromkeys(key for table in tables.values() for key in table)
    return [(key, [table.get(key) for table in tables.values()]) for key in keys]
