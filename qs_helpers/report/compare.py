"""Runs side by side on one page, joined by the ids of their claims: what differs first."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from ..evidence.files import plain, write_whole
from ..presets import is_tiny, without_home
from .pages import provenance_rows, render, small_picture, write_page
from .run import RESULTS, STAMP, near, read_json

# What a notebook's results.json has besides its claims, in every edition.
KEYS = ("params", "started", "seconds", "peak_rss_mb", "cores", "versions")
# What a claim may lack: an invariant, or one of an earlier edition.
BLANK = dict.fromkeys(["value", "interval", "n", "groups", "above", "below"])
BLANK |= {"kind": "empirical", "badge": "NOT JUDGED", "sentence": "", "needs": "", "family": 1}
# How claims differ, the most telling first; what is "" is folded.
KINDS = ("verdicts differ", "intervals lie apart", "values differ", "asked differently", "")
COLUMNS = "notebook id asks kind differs run badge value low high n groups sentence".split()


def compare_runs(folders: list[Path], out: Path | None = None) -> Path:
    """Write a static page that compares two or more folders of runs/; return its path.

    The same goes to a .csv, a row per claim and run, and a .json beside the page. Claims are joined
    by id; what cannot be compared is said on the page: claims that one run has alone, notebooks
    that stopped half-way, other versions of the project, claims of its first edition.

    out: the page, by default runs/compare/<names>.html beside the runs. ValueError for a folder
    that holds no run, for one given twice, or fewer than two, and for a page without .html.
    """
    folders = [Path(folder).resolve() for folder in folders]
    names = [folder.name for folder in folders]
    if len(set(folders)) < len(folders) or len(folders) < 2:
        raise ValueError("give two or more different folders of runs, such as runs/tiny runs/A")
    if len(set(names)) < len(names):
        names = [near(folder) for folder in folders]  # they are different folders
    title = "-vs-".join(name.replace("/", "-") for name in names)
    out = out or folders[0].parent / "compare" / f"{title}.html"
    if out.suffix != ".html":
        raise ValueError(f"{out}: give a page, as page.html; its .csv and .json go beside it")
    where = dict(zip(names, folders, strict=True))
    runs, said = {}, {}
    for name, folder in where.items():
        runs[name], said[name] = _read(folder)
        if not runs[name] and not said[name]:
            raise ValueError(f"{near(folder)} holds no run; make one with qs-report")
    every = sorted({stem for found in runs.values() for stem in found})
    there = {stem: [name for name, found in runs.items() if stem in found] for stem in every}
    alone = [f"{stem} ({names[0]})" for stem, names in there.items() if len(names) == 1]
    notes = _versions(runs)
    for name, words in said.items():  # of what one run has alone, that is said
        told = [stem for stem in words if len(there.get(stem, [])) > 1 or stem not in runs[name]]
        notes += [f"{stem} of {name}: {words[stem]}." for stem in told]
    if alone:
        notes.append(f"In one run only, and not below: {', '.join(alone)}.")
    parts = [_notebook(stem, runs, where) for stem in every if len(there[stem]) > 1]
    shared = {part["stem"] for part in parts}
    about = _about({n: {s: r for s, r in f.items() if s in shared} for n, f in runs.items()})
    found = {"names": names, "notes": notes, "settings": about, "notebooks": parts}
    body = render("compare", kinds=KINDS, **found)
    links = [(_link(folder / "index.html", out), name) for name, folder in where.items()]
    page = {"title": "Runs compared", "name": "compared", "links": links, "wide": True}
    page["tiny"] = any(is_tiny(r.get("preset", "")) for f in runs.values() for r in f.values())
    write_page(out, render("page", body=body, **page))
    _write_tables(out, found)
    return out


def _read(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What each notebook of a run recorded, by stem, with its claims by id; and by stem in words
    what is not whole or cannot be joined."""
    found, said = {}, _failed(folder)
    for path in sorted(folder.glob(f"*/{RESULTS}")):
        stem = path.parent.name
        try:
            results = read_json(path)
        except ValueError:
            said[stem] = f"its {RESULTS} is not whole, and is left out"
            continue
        if not isinstance(results, dict) or "claims" not in results:
            continue  # of something else
        if lacking := [key for key in KEYS if key not in results]:
            said[stem] = f"its {RESULTS} lacks {', '.join(lacking)}, and is left out"
            continue
        claims = results["claims"]
        joined = {claim["id"]: BLANK | claim for claim in claims if "id" in claim}
        found[stem] = results | {"claims": joined}
        unnamed, ended = len(claims) - len(joined), (path.parent / STAMP).is_file()
        if unnamed:  # that edition had no answers, by which else to tell an end
            said[stem] = (f"it stopped half-way ({said[stem]}); " if stem in said else "") + (
                f"{unnamed} of its {len(claims)} claims have no id, as in the first edition of the "
                "project, and are joined with none"
            )
        elif stem in said or not ("answer" in results or ended):
            why = f"it stopped half-way ({said[stem]})" if stem in said else "it did not finish"
            said[stem] = f"{why}; what it recorded before is compared"
        elif any("asks" not in c for c in joined.values() if c["kind"] == "empirical"):
            said[stem] = "its claims are of an edition that did not record what was asked"
    return found, said


def _failed(folder: Path) -> dict[str, str]:
    """Stem to error of the notebooks that did not end well, as the report of a run says."""
    try:
        notebooks = read_json(folder / RESULTS).get("notebooks", [])
        return {n["notebook"]: n["error"] for n in notebooks if n["status"] != "done"}
    except (ValueError, KeyError, TypeError, AttributeError):  # another file of that name
        return {}


def _versions(runs: dict[str, dict]) -> list[str]:
    """A warning, if not all runs are of one version of the project."""
    found = {
        name: sorted({r["versions"].get("qs-helpers", "unknown") for r in results.values()})
        for name, results in runs.items()
        if results
    }
    if len({version for versions in found.values() for version in versions}) < 2:
        return []
    said = ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())
    return [f"Different versions of the project ({said}): the same id may be measured otherwise."]


def _link(page: Path, origin: Path) -> str:
    """The address of a page on another one; "" if it is not there."""
    found = Path(near(page, origin.resolve().parent))
    address = found.as_uri() if found.is_absolute() else found.as_posix()
    return address if page.is_file() else ""


def differs(entries: list[dict[str, Any]]) -> str:
    """How one claim differs between the runs that have it, in words; "" where it does not.

    A difference of values counts where intervals lie apart; without intervals, where the values
    are not the same.
    """
    intervals = [entry.get("interval") for entry in entries]
    if len({entry["badge"] for entry in entries}) > 1:
        return KINDS[0]
    if all(intervals) and any(interval[0] != interval[1] for interval in intervals):
        lows, highs = ([float(end) for end in ends] for ends in zip(*intervals, strict=True))
        if max(lows) > min(highs):  # an end may be "inf"
            return KINDS[1]
    elif len({str(plain(entry["value"])) for entry in entries}) > 1:
        return KINDS[2]
    asked = {(entry["asks"], entry.get("needs")) for entry in entries if "asks" in entry}
    return KINDS[3] if len(asked) > 1 else ""


def _notebook(stem: str, runs: dict[str, dict], folders: dict[str, Path]) -> dict[str, Any]:
    """Claims, values and answers of one notebook in every run that has it."""
    results = {name: found[stem] for name, found in runs.items() if stem in found}
    rows, single = [], []
    for id, cells in _aligned({name: r["claims"] for name, r in results.items()}):
        entries = {name: cell for name, cell in zip(results, cells, strict=True) if cell}
        row = {"id": id, "asks": _asked(id, entries), "entries": entries}
        row["kind"] = next(iter(entries.values()))["kind"]
        if len(entries) < 2:
            single.append(row)
            continue
        remarks = [f"not in {name}" for name in results if name not in entries]
        families = {name: entry["family"] for name, entry in entries.items()}
        if len(set(families.values())) > 1:
            said = ", ".join(f"{m} in {name}" for name, m in families.items())
            remarks.append(f"simultaneous for another number of claims: {said}")
        row |= {"differs": differs([*entries.values()]), "remarks": remarks}
        rows.append(row | {"plot": _plot(entries)})
    rows.sort(key=lambda row: KINDS.index(row["differs"]))
    numbers = [
        {"name": name, "cells": cells}
        for name, cells in _aligned({n: _numbers(r.get("values", {})) for n, r in results.items()})
        if len(set(map(str, cells))) > 1
    ]
    answers = [_answer(name, r, folders[name] / stem) for name, r in results.items()]
    found = {"claims": rows, "single": single, "numbers": numbers, "answers": answers}
    return {"stem": stem, "names": [*results]} | found


def _asked(id: str, entries: dict[str, dict[str, Any]]) -> str:
    """What the runs asked, or stated of an invariant; "" where they differ."""
    asked = {entry["asks"] for entry in entries.values() if "asks" in entry}
    asked = asked or {entry["sentence"] for entry in entries.values()}
    member = id.partition("/")[2]
    return asked.pop() + (f" ({member})" if member else "") if len(asked) == 1 else ""


def _plot(entries: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Places of values, intervals and thresholds from 0 to 100, on one scale for all runs; None
    unless two runs have an interval."""
    spans = {name: entry["interval"] for name, entry in entries.items() if entry["interval"]}
    if len(spans) < 2:
        return None
    thresholds = {e[side] for e in entries.values() for side in ("above", "below")} - {None}
    shown = [*thresholds, *(entry["value"] for entry in entries.values())]
    shown = [_number(x) for x in [*shown, *(end for span in spans.values() for end in span)]]
    finite = [x for x in shown if x is not None and math.isfinite(x)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    width = (high - low) or 1.0

    def place(x: Any) -> float | None:
        x = _number(x)
        return x if x is None else round(min(max(4 + 92 * (x - low) / width, 0), 100), 2)

    marks = {
        name: {"value": place(entry["value"]), "ends": [place(x) for x in entry["interval"] or ()]}
        for name, entry in entries.items()
    }
    lines = {"thresholds": sorted(thresholds), "lines": [place(x) for x in sorted(thresholds)]}
    return {"low": low, "high": high, "marks": marks} | lines


def _number(value: Any) -> float | None:
    """A recorded number; "inf" is one, and "nan" and texts are none."""
    try:
        return None if math.isnan(number := float(value)) else number
    except (TypeError, ValueError):
        return None


def _answer(name: str, results: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The answer of a run and its picture, from the folder of a run or of committed figures."""
    answer = results.get("answer", {})
    alts = {figure["slug"]: figure["alt"] for figure in results.get("figures", [])}
    slug = answer.get("hero") or next(iter(alts), "")
    paths = [folder / "figures" / f"{slug}.png", folder / f"{slug}.png"]
    png = next((small_picture(path, 720) for path in paths if path.is_file()), "")
    return {"name": name, "text": answer.get("text", ""), "png": png, "alt": alts.get(slug, "")}


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


def _write_tables(out: Path, found: dict[str, Any]) -> None:
    """Write what the page says as JSON, and its claims as CSV, a row per claim and run."""
    claims = []
    for part in found["notebooks"]:
        for row in [*part["claims"], *part["single"]]:
            row = {"differs": "in one run only"} | row
            kept = {key: row[key] for key in ("id", "asks", "kind", "differs", "entries")}
            claims.append({"notebook": part["stem"]} | kept)
    about = {"runs": found["names"], "notes": found["notes"], "settings": found["settings"]}
    text = json.dumps(plain(about | {"claims": claims}), indent=1, ensure_ascii=False)
    _write(out.with_suffix(".json"), text + "\n")
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for claim in claims:
        for name, entry in claim["entries"].items():
            low, high = entry["interval"] or (None, None)
            writer.writerow(entry | claim | {"run": name, "low": low, "high": high})
    _write(out.with_suffix(".csv"), table.getvalue())


def _write(path: Path, text: str) -> None:
    write_whole(path, without_home(text).encode(errors="backslashreplace"))
