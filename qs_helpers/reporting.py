"""Carry out the plan of a report: run what is not done yet, write the pages.

report  run it; the path of the index and the outcomes

A run is kept and not repeated as long as nothing that it depends on has changed (`stamps.py`), so
a report that was interrupted, even by kill -9, goes on where it was when it is started again.
Only a refresh writes outside of runs/: it puts what is stale, cleaned and executed anew, into
notebooks/ and figures/.
"""

import os
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .files import read_json, write_json
from .planning import Plan, run_changes, why_stale
from .preflight import BUILD
from .presets import is_tiny
from .runner import STOPPED, Outcome, run_all
from .stamps import committed_changes, make_stamp, outputs_digest

__all__ = ["report"]


def report(
    plan: Plan, jobs: int | None = None, quiet: bool = False, fresh: bool = False
) -> tuple[Path, list[Outcome]]:
    """Carry out a plan; returns the path of the index and the outcome of each notebook.

    jobs: notebooks at a time; None: as many as there are cores for an embedded scope, 1 for
    others, which share one device. A notebook that fails is kept and shown, and the others run.
    """
    from filelock import FileLock, Timeout

    plan.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.out / ".lock")  # the system frees it when its holder dies
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not quiet:
            print(f"waiting for another report on {plan.out.name}", file=sys.stderr)
        lock.acquire()
        if not fresh:  # the other one may have done it
            for path in plan.notebooks:
                plan.stale[path.stem] = why_stale(plan, path)
    with lock:
        return _run(plan, jobs, quiet)


def _run(plan: Plan, jobs: int | None, quiet: bool) -> tuple[Path, list[Outcome]]:
    from tqdm import tqdm

    from .pages import write_index, write_notebook_pages
    from .preflight import code_sources

    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    params = plan.root / "notebooks" / "params"
    todo = [path for path in plan.notebooks if plan.stale[path.stem]]
    todo.sort(key=lambda path: -_expected(plan.root, path))  # the longest first: none ends late
    cores, tiny = _cores(), is_tiny(plan.preset)
    jobs = max(1, min(jobs or (cores if tiny else 1), len(todo)))
    # Inside a notebook every bar is off: a bar in an output is noise, and widgets die there.
    variables = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "QS_STATIC": "1"}
    variables |= {"QS_OUT": str(plan.out), "QS_PRESET": plan.preset, "QS_ROOT": str(plan.root)}
    if (tiny or jobs > 1) and "OMP_NUM_THREADS" not in os.environ:
        # One thread whatever is left to do: sums, and so results, do not depend on it.
        variables["OMP_NUM_THREADS"] = "1" if tiny else str(max(1, cores // jobs))
    stamps = {p: make_stamp(p, plan.preset, plan.passed[p.stem], params) for p in todo}
    for name in ("index.html", "results.json") if todo else ():
        (plan.out / name).unlink(missing_ok=True)  # they would tell of what is being replaced
    for path in todo:
        shutil.rmtree(plan.out / path.stem, ignore_errors=True)  # no claims of an older run
        (plan.out / path.name).unlink(missing_ok=True)
    pages = {path.stem for path in (*plan.notebooks, *_earlier(plan))}
    pages |= {BUILD} if tiny else set()
    cells = {path: len(code_sources(path)) + bool(plan.passed[path.stem]) for path in todo}
    at: dict[Path, int] = {}
    shown = {"disable": True} if quiet or not todo else {}  # else as TQDM_DISABLE says
    with tqdm(total=sum(cells.values()), unit="cell", file=sys.stderr, **shown) as bar:

        def progress(path: Path) -> None:
            at[path] = at.get(path, 0) + 1
            running = [f"{p.stem[:2]} {n}/{cells[p]}" for p, n in at.items() if n < cells[p]]
            bar.set_description_str(" · ".join(running) or path.stem, refresh=False)
            bar.update()

        def done(outcome: Outcome) -> Outcome:
            try:
                _finish(plan, outcome, stamps[outcome.notebook])
                write_notebook_pages(outcome, plan.preset, plan.out, pages)
            except Exception as failed:  # a full disk: the other notebooks go on
                error = f"{type(failed).__name__}: {failed}".splitlines()[0]
                return outcome._replace(error=outcome.error or error)
            return outcome

        work = [(path, plan.out / path.name, plan.passed[path.stem]) for path in todo]
        ran = run_all(work, jobs, variables, progress, done)
    ran = {outcome.notebook: _unless_finished(plan, outcome) for outcome in ran}
    outcomes = [ran.get(path) or _kept(plan, path) for path in plan.notebooks]
    for outcome in outcomes:
        if outcome.kept or outcome.error == STOPPED:  # of kept ones, the prose may have changed
            write_notebook_pages(outcome, plan.preset, plan.out, pages)
    if plan.refresh:
        outcomes = [_committed(plan, outcome) for outcome in outcomes]
    build = plan.root / "notebooks" / f"{BUILD}.ipynb"
    build = build if tiny and build.is_file() else None
    others = [_kept(plan, path) for path in _earlier(plan)]
    everything = sorted([*outcomes, *others], key=lambda outcome: outcome.notebook.name)
    index = write_index(everything, plan.preset, plan.out, build)
    about = {"preset": plan.preset, "started": started}
    about |= {"seconds": round(time.monotonic() - clock, 2), "jobs": jobs}
    write_json(plan.out / "results.json", about | {"notebooks": [
        {
            "notebook": o.notebook.stem,
            "status": "stopped" if o.error == STOPPED else "failed" if o.error else "done",
            "ran": not o.kept,
            "seconds": round(o.seconds, 2),
            "error": o.error,
            "results": f"{o.notebook.stem}/results.json",
        }
        for o in everything
    ]})  # fmt: skip
    return index, outcomes


def _finish(plan: Plan, outcome: Outcome, stamp: dict[str, Any]) -> None:
    """Complete the results of a notebook that ran. Its stamp, written last, says it is done."""
    folder = plan.out / outcome.notebook.stem
    results = read_json(folder / "results.json")
    if results:
        # The notebook knows the time of its last record; the whole run took a little longer.
        write_json(folder / "results.json", results | {"seconds": round(outcome.seconds, 2)})
    if outcome.error:
        return
    outputs = {"outputs": outputs_digest(outcome.executed, folder)}
    write_json(folder / "stamp.json", stamp | outputs)


def _unless_finished(plan: Plan, outcome: Outcome) -> Outcome:
    """The outcome, but a notebook is done whose stamp was written just before Ctrl-C."""
    folder = plan.out / outcome.notebook.stem
    if outcome.error != STOPPED or not (folder / "stamp.json").is_file():
        return outcome
    seconds = read_json(folder / "results.json").get("seconds", 0.0)
    return outcome._replace(error=None, seconds=seconds)


def _kept(plan: Plan, path: Path) -> Outcome:
    """The outcome of a run that is there already."""
    results = read_json(plan.out / path.stem / "results.json")
    why = "unchanged, not run again"
    if path not in plan.notebooks:
        passed = read_json(plan.out / path.stem / "stamp.json")["passed"]
        params = plan.root / "notebooks" / "params"
        found = run_changes(plan.out, path, plan.preset, passed, params)
        why = "an earlier run" + (f"; since then changed: {', '.join(found)}" if found else "")
    return Outcome(path, plan.out / path.name, results.get("seconds", 0.0), None, why)


def _earlier(plan: Plan) -> list[Path]:
    """Notebooks that this report was not asked for but that have a finished run in its folder."""
    every = sorted((plan.root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return [
        path for path in every
        if path not in plan.notebooks and (plan.out / path.stem / "stamp.json").is_file()
    ]  # fmt: skip


def _committed(plan: Plan, outcome: Outcome) -> Outcome:
    """Commit what a refresh ran; the outcome says so if it could not be cleaned."""
    from .refresh import commit_run

    stamp = read_json(plan.out / outcome.notebook.stem / "stamp.json")
    fits = outcome.kept and not committed_changes(outcome.notebook, plan.root, plan.preset)
    if outcome.error or not stamp or fits:
        return outcome
    figures = plan.root / "figures" / outcome.notebook.stem
    try:
        commit_run(outcome.executed, plan.out / outcome.notebook.stem, outcome.notebook, figures,
                   stamp)  # fmt: skip
    except ValueError as unclean:
        return outcome._replace(error=str(unclean))
    return outcome


def _cores() -> int:
    """The cores that this process may use."""
    mine = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(mine(0)) if mine else os.cpu_count() or 1


def _expected(root: Path, path: Path) -> float:
    """Seconds of the committed run of a notebook, 0 where there is none."""
    return read_json(root / "figures" / path.stem / "results.json").get("seconds", 0.0)
