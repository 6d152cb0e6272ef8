"""The record of one notebook run: parameters, versions, time, memory, claims, values, figures.

It is kept in results.json of the run's folder $QS_OUT/<notebook>/, by default
runs/by-hand/<preset>/<notebook>/ of the project, rewritten whole after each entry.
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

from ..presets import is_tiny, project_root, resolve_preset, runs_folder, versions
from .files import plain, write_json


@dataclass(frozen=True)
class Record:
    """One run of a notebook. `data` is what results.json holds."""

    notebook: str
    preset: str
    folder: Path = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    clock: float = field(repr=False)  # time.monotonic() at the start
    announced: dict[str, Any] = field(repr=False, default_factory=dict)
    places: dict[str, Any] = field(repr=False, default_factory=dict)  # of an id: the cell it is in

    @property
    def tiny(self) -> bool:
        return is_tiny(self.preset)


_current: Record | None = None


def start_run(notebook: str, preset: str, params: Any = None) -> Record:
    """Begin the run of a notebook and make it the current one; earlier records are replaced.

    notebook: file name without .ipynb; preset: a name, or "auto"; params: the settings of the
    run, a dict or a namespace.
    """
    global _current
    preset = resolve_preset(preset)
    # Not runs/<preset>: a notebook that is run by hand must not write into a report.
    out = os.environ.get("QS_OUT") or runs_folder() / "by-hand" / preset
    if params is not None and not isinstance(params, Mapping):
        params = vars(params)
    data = {"notebook": notebook, "preset": preset, "params": plain(params or {})}
    data |= {"started": datetime.now(UTC).isoformat(timespec="seconds")}
    data |= {"seconds": 0.0, "peak_rss_mb": 0.0, "cores": os.cpu_count(), "versions": versions()}
    data |= {"provenance": {}, "claims": [], "values": {}, "figures": []}
    _current = Record(notebook, preset, project_root() / out / notebook, data, time.monotonic())
    _write(_current)
    return _current


def record(name: str, value: Any) -> None:
    """Keep a value under a name; the name "provenance" takes the stamp of the loaded scope."""
    run = current_run()
    (run.data if name == "provenance" else run.data["values"])[name] = plain(value)
    _write(run)


def add_entry(run: Record, kind: str, entry: dict[str, Any], key: str) -> None:
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


def current_run() -> Record:
    """The run that start_run began; RuntimeError if there is none."""
    if _current is None:
        raise RuntimeError("no run has begun: call qs.start_run(notebook, preset) first")
    return _current


def _write(run: Record) -> None:
    run.data.update(seconds=round(time.monotonic() - run.clock, 2), peak_rss_mb=_peak_rss_mb())
    if device := _peak_device_mb():
        run.data["peak_device_mb"] = device
    write_json(run.folder / "results.json", run.data)


def _peak_device_mb() -> float:
    """Largest memory of tensors on GPUs of CUDA so far, in MB (10^6 bytes); 0 without one."""
    torch = sys.modules.get("torch")  # a run that computes nothing does not load it
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    held = sum(torch.cuda.max_memory_allocated(n) for n in range(torch.cuda.device_count()))
    return round(held / 1e6, 1)


def _peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MB (10^6 bytes)."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
