"""Rows of the benchmark's table, and how they are timed.

Row          one comparison: ours, a peer, their ratio, and the target if there is one
interleaved  seconds of tasks that are run in turn
compared     a row of two of them
machine      what the numbers were measured on
"""

import platform
import re
import time
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import torch

from qs_helpers.fast.topk import has_int8

RUNS = 5


class Row(NamedTuple):
    """`ratio` by `kind`: "faster", the peer's time over ours; "share", ours over the peer's;
    "time", of two rates, how much longer ours takes. `target`: the least of the first, the most of
    the others. `quartiles` of the ratio, run by run, where runs were taken in turn."""

    section: str
    task: str
    shape: str
    ours: float
    peer: str
    theirs: float
    unit: str
    kind: str
    target: float | None = None
    quartiles: tuple[float, float] | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs if self.kind == "share" else self.theirs / self.ours

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio >= self.target if self.kind == "faster" else self.ratio <= self.target


def compared(section, task, shape, times, ours, peer, kind="faster", target=None, n=None) -> Row:
    """A row of two tasks of `interleaved`, in milliseconds; of `n` tokens each, in tokens/s."""
    value = (lambda s: s * 1e3) if n is None else (lambda s: n / s)
    unit = "ms" if n is None else "tokens/s"
    pairs = [
        Row(section, task, shape, value(a), peer, value(b), unit, kind)
        for a, b in zip(times[ours], times[peer], strict=True)
    ]
    low, _, high = quantiles([pair.ratio for pair in pairs], n=4, method="inclusive")
    mine, theirs = (value(median(times[name])) for name in (ours, peer))
    return Row(section, task, shape, mine, peer, theirs, unit, kind, target, (low, high))


def interleaved(tasks, device="cpu", runs: int = RUNS) -> dict[str, list[float]]:
    """Seconds of each run of each task, all in turn, after a first round that is not counted."""
    taken = {name: [] for name in tasks}
    for run in range(runs + 1):
        for name, task in tasks.items():
            _wait(device)
            start = time.perf_counter()
            task()
            _wait(device)
            if run:
                taken[name].append(time.perf_counter() - start)
    return taken


def _wait(device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def machine(device) -> str:
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}"
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {threads}"
    name, cpus = platform.processor(), Path("/proc/cpuinfo")
    if cpus.exists() and (named := re.search(r"^model name\s*:\s*(.+)$", cpus.read_text(), re.M)):
        name = named[1].strip()
    has = " with AVX512-VNNI" if has_int8() else ""
    return f"{name}{has}, {threads}"
