"""Claims and values of one notebook run, kept in its results.json.

A run writes to $QS_OUT/<notebook>/, by default runs/by-hand/<preset>/<notebook>/ of the project:
results.json, rewritten whole after each call, and what figures.py adds.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..presets import is_tiny, project_root, resolve_preset, versions
from .files import plain, short, write_json

BADGES = {
    "empirical": {True: "SHOWN", False: "NOT SHOWN", None: "MEASURED"},
    "invariant": {True: "HOLDS", False: "BROKEN"},
}


class ClaimFailed(AssertionError):
    """A claim marked as an invariant does not hold."""


@dataclass(frozen=True)
class Run:
    """One run of a notebook. `data` is what results.json holds."""

    notebook: str
    preset: str
    folder: Path = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    clock: float = field(repr=False)  # time.monotonic() at the start

    @property
    def tiny(self) -> bool:
        return is_tiny(self.preset)


_current: Run | None = None


def start_run(notebook: str, preset: str, params: Any = None) -> Run:
    """Begin the run of a notebook and make it the current one; earlier records are replaced.

    notebook: file name without .ipynb; preset: a name, or "auto"; params: the settings of the
    run, a dict or a namespace.
    """
    global _current
    preset = resolve_preset(preset)
    # Not runs/<preset>: a notebook that is run by hand must not write into a report.
    out = os.environ.get("QS_OUT") or f"runs/by-hand/{preset}"
    if params is not None and not isinstance(params, Mapping):
        params = vars(params)
    data = {"notebook": notebook, "preset": preset, "params": plain(params or {})}
    data |= {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    data |= {"seconds": 0.0, "peak_rss_mb": 0.0, "cores": os.cpu_count(), "versions": versions()}
    data |= {"provenance": {}, "claims": [], "values": {}, "figures": []}
    _current = Run(notebook, preset, project_root() / out / notebook, data, time.monotonic())
    _write(_current)
    return _current


def claim(
    text: str,
    value: Any,
    interval: tuple[float, float] | None = None,
    passes: bool | None = None,
    *,
    n: int | None = None,
    kind: str = "empirical",
    controls: Mapping[str, Any] | None = None,
) -> None:
    """Judge one statement: print its badge and record it.

    value: what was measured; interval: (low, high); n: number of samples (1 is labelled an
    anecdote); passes: the verdict, or None for a measurement without one; controls: name to
    value. A value that is not finite never passes. A second claim with the same text replaces
    the first, so that a cell can be run again.

    kind "empirical" that fails is printed as NOT SHOWN and the run goes on; kind "invariant"
    (identity, hook removal, planted truth) that fails is recorded, then raises ClaimFailed.
    """
    run = current_run()
    if kind not in BADGES:
        raise ValueError(f"claim kind {kind!r}: use 'empirical' or 'invariant'")
    if kind == "invariant" and passes is None:
        raise ValueError(f"claim {text!r}: an invariant needs passes=True or passes=False")
    if interval is not None and not (len(interval) == 2 and interval[0] <= interval[1]):
        raise ValueError(f"claim {text!r}: interval {interval!r} is not (low, high)")
    verdict = None if passes is None else bool(passes)
    value = plain(value)
    if verdict and value in ("nan", "inf", "-inf"):
        verdict = False
    entry = {"text": text, "kind": kind, "badge": BADGES[kind][verdict], "passes": verdict}
    entry |= plain({"value": value, "interval": interval, "n": n, "controls": controls or {}})
    add_entry(run, "claims", entry, "text")
    print(_badge(entry, run.tiny))
    if kind == "invariant" and not verdict:
        raise ClaimFailed(f"invariant broken: {text} (value {short(value)})")


def record(name: str, value: Any) -> None:
    """Keep a value under a name; the name "provenance" takes the stamp of the loaded scope."""
    run = current_run()
    (run.data if name == "provenance" else run.data["values"])[name] = plain(value)
    _write(run)


def add_entry(run: Run, kind: str, entry: dict[str, Any], key: str) -> None:
    """Record an entry in run.data[kind], in the place of the one with the same key if any."""
    entries = run.data[kind]
    same = (i for i, old in enumerate(entries) if old[key] == entry[key])
    place = next(same, len(entries))
    entries[place : place + 1] = [entry]
    _write(run)


def measured(notebook: str) -> None:
    """Print time and peak memory of the committed run, from figures/<notebook>/results.json."""
    print(measured_line(project_root() / "figures" / notebook / "results.json"))


def measured_line(path: Path) -> str:
    """What `measured` prints for the results.json at a path."""
    if not path.is_file():
        return "Measured: no committed run yet (make refresh records one)"
    data = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"Measured: {data['seconds']:.0f} s, {data['peak_rss_mb'] / 1000:.1f} GB peak memory, "
        f"{data['cores']} cores, preset {data['preset']}"
    )


def current_run() -> Run:
    """The run that start_run began; RuntimeError if there is none."""
    if _current is None:
        raise RuntimeError("no run has begun: call qs.start_run(notebook, preset) first")
    return _current


def _badge(entry: dict[str, Any], tiny: bool) -> str:
    """The printed lines of a claim: verdict, text, value, interval, n, labels; then controls."""
    line = f"{entry['badge']:<10} {entry['text']}: {short(entry['value'])}"
    if entry["interval"]:
        line += " [{}, {}]".format(*map(short, entry["interval"]))
    if entry["n"] is not None:
        line += f", n = {entry['n']}"
    if entry["n"] == 1:
        line += " (one example: an anecdote)"
    if tiny:
        line += "  [tiny scope]"
    if entry["controls"]:
        pairs = (f"{name} {short(value)}" for name, value in entry["controls"].items())
        line += f"\n{'':<10} controls: " + " · ".join(pairs)
    return line


def _write(run: Run) -> None:
    run.data.update(seconds=round(time.monotonic() - run.clock, 2), peak_rss_mb=_peak_rss_mb())
    write_json(run.folder / "results.json", run.data)


def _peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
