"""Carries out a plan: runs notebook by notebook, and writes pages and results.

A report that was interrupted, even by kill -9, goes on where it was when it is started again. Only
a refresh writes outside of runs/: it cleans what it ran and puts it into notebooks/ and figures/.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGINT, signal
from subprocess import PIPE, Popen
from threading import Event, current_thread, main_thread
from typing import Any

from ..evidence.files import read_json, write_json
from ..presets import is_tiny
from .check import Plan
from .run import BUILD, RESULTS, STAMP, STOPPED, SUITE, Outcome, Run, code_sources


def report(
    plan: Plan, jobs: int | None = None, quiet: bool = False, fresh: bool = False
) -> tuple[Path, list[Outcome]]:
    """Carry out a plan; returns the path of the index and the outcome of each notebook.

    jobs: notebooks at a time; None: as many as there are cores for an embedded scope, 1 for
    others, which share one device. A notebook that fails is kept and shown, and the others run.
    fresh: SAEs that a run of the plan has trained before are trained again.
    """
    from filelock import FileLock, Timeout

    plan.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.out / ".lock")  # the system frees it when its holder dies
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not quiet:
            print(f"waiting for another report on {plan.out.name}", file=_Forgiving(), flush=True)
        lock.acquire()
        if not fresh:  # the other one may have done it
            plan.stale.update({run.stem: run.why_stale() for run in plan.runs})
    with lock:
        for run in plan.runs if fresh else []:
            if plan.stale[run.stem] and (suite := run.own_suite):
                (suite / "suite.json").unlink(missing_ok=True)  # so that 10 finds nothing done
        return _carry_out(plan, jobs, quiet)


def _carry_out(plan: Plan, jobs: int | None, quiet: bool) -> tuple[Path, list[Outcome]]:
    from .pages import write_index, write_notebook_pages

    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    todo = [run for run in plan.runs if plan.stale[run.stem]]
    # The longest first: then none is left to run alone at the end.
    todo.sort(key=lambda run: -read_json(run.figures / RESULTS).get("seconds", 0.0))
    cores, tiny = _cores(), is_tiny(plan.preset.name)
    jobs = max(1, min(jobs or (cores if tiny else 1), len(todo)))
    earlier = _earlier(plan)
    pages = {run.stem for run in [*plan.runs, *earlier]} | ({BUILD} if tiny else set())
    stamps = {run.stem: run.new_stamp() for run in todo}
    for half in plan.out.glob(".*.[0-9]*"):  # of a report that was killed while it wrote
        half.unlink(missing_ok=True)
    if todo:  # these would tell of what is being replaced
        (plan.out / "index.html").unlink(missing_ok=True)
        (plan.out / RESULTS).unlink(missing_ok=True)
    for run in todo:
        for old in run.folder.glob("*"):
            if old != run.folder / SUITE:  # SAEs in training there: whose they are, 10 finds out
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        run.executed.unlink(missing_ok=True)

    def done(outcome: Outcome) -> Outcome:
        try:
            _finish(outcome, stamps[outcome.run.stem])
            write_notebook_pages(outcome, pages)
        except Exception as failed:  # a full disk: the other notebooks go on
            error = f"{type(failed).__name__}: {failed}".splitlines()[0]
            return outcome._replace(error=outcome.error or error)
        return outcome

    with _progress(todo, quiet) as progress:
        ran = run_all(todo, jobs, _environment(plan, jobs, cores), progress, done)
    ended = {outcome.run.stem: outcome for outcome in ran}
    outcomes = [ended.get(run.stem) or _kept(run) for run in plan.runs]
    for outcome in outcomes:
        if outcome.kept or outcome.error == STOPPED:  # of kept ones, the prose may have changed
            write_notebook_pages(outcome, pages)
    if plan.refresh:
        outcomes = [_committed(outcome) for outcome in outcomes]
    everything = [*outcomes, *(_kept(run, earlier=True) for run in earlier)]
    everything.sort(key=lambda outcome: outcome.run.stem)
    build = plan.root / "notebooks" / f"{BUILD}.ipynb"
    index = write_index(plan, everything, build if tiny and build.is_file() else None)
    about = {"preset": plan.preset.name, "started": started, "jobs": jobs}
    about["seconds"] = round(time.monotonic() - clock, 2)
    about["notebooks"] = [
        {
            "notebook": outcome.run.stem,
            "status": outcome.status,
            "ran": not outcome.kept,
            "seconds": round(outcome.seconds, 2),
            "error": outcome.error,
            "results": f"{outcome.run.stem}/{RESULTS}",
        }
        for outcome in everything
    ]
    write_json(plan.out / RESULTS, about)
    return index, outcomes


def run_all(
    runs: list[Run],
    jobs: int,
    environment: dict[str, str],
    progress: Callable[[Run], Any],
    done: Callable[[Outcome], Outcome],
) -> list[Outcome]:
    """Run notebooks, at most `jobs` at a time, begun in that order, each in its own process.

    environment: variables of these processes; progress(run): called after each code cell;
    done(outcome): called when a notebook has ended; returns the outcome, or one with an error. On
    Ctrl-C what is running ends, its outcome says that it was stopped, and nothing more is begun.
    """
    outcomes: dict[str, Outcome] = {}
    stop, workers = Event(), set()

    def run_one(run: Run) -> Outcome:
        if stop.is_set():
            return Outcome(run, 0.0, STOPPED)
        command = [sys.executable, "-P", "-m", f"{__package__}.child", run.notebook, run.executed]
        command.append(json.dumps(run.passed, default=str))
        said: dict[str, Any] = {}
        # A session of its own: Ctrl-C in a terminal reaches the report only, which passes it on.
        pipes = {"stdin": PIPE, "stdout": PIPE, "text": True, "encoding": "utf-8"}
        where = {"cwd": run.notebook.parent, "env": environment, "start_new_session": True}
        try:
            with Popen(command, **pipes, **where) as worker:
                workers.add(worker)
                for line in worker.stdout:
                    if line == "cell\n":
                        progress(run)
                    else:
                        said = json.loads(line)
        except OSError as failed:  # no memory for a process: the other notebooks go on
            return Outcome(run, 0.0, f"{type(failed).__name__}: {failed}")
        error = said.get("error", f"its process ended with exit code {worker.returncode}")
        return Outcome(run, said.get("seconds", 0.0), error)

    with _interrupt_sets(stop), ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(run_one, run) for run in runs}
        while waiting:
            ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in ended):
                cut = stop.is_set() and outcome.error
                outcomes[outcome.run.stem] = (
                    outcome._replace(error=STOPPED) if cut else done(outcome)
                )
            for worker in list(workers) if stop.is_set() else []:
                with suppress(OSError, ValueError):  # it has ended
                    print("stop", file=worker.stdin, flush=True)
    return [outcomes[run.stem] for run in runs]


@contextmanager
def _interrupt_sets(stop: Event):
    """In the block, Ctrl-C sets an event and raises nothing, so that no library can swallow it."""
    if current_thread() is not main_thread():  # where signals do not arrive
        yield
        return
    before = signal(SIGINT, lambda *_: stop.set())
    try:
        yield
    finally:
        signal(SIGINT, before)


@contextmanager
def _progress(todo: list[Run], quiet: bool):
    """One bar over the cells of all notebooks; gives a function to call after each cell."""
    from tqdm import tqdm

    cells = {run.stem: len(code_sources(run.notebook)) + bool(run.passed) for run in todo}
    at: dict[str, int] = {}
    shown = {"disable": True} if quiet or not todo else {}  # else as TQDM_DISABLE says
    with tqdm(total=sum(cells.values()), unit="cell", file=_Forgiving(), **shown) as bar:

        def progress(run: Run) -> None:
            at[run.stem] = at.get(run.stem, 0) + 1
            running = [f"{stem[:2]} {n}/{cells[stem]}" for stem, n in at.items() if n < cells[stem]]
            bar.set_description_str(" · ".join(running) or run.stem, refresh=False)
            bar.update()

        yield progress


class _Forgiving:
    """Standard error for a bar. That nobody reads on, or a full disk, breaks no run."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _environment(plan: Plan, jobs: int, cores: int) -> dict[str, str]:
    """The variables of the notebooks' processes: ours, with what a report sets."""
    variables = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    # Inside a notebook every bar is off: a bar in an output is noise, and widgets die there.
    variables |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "QS_STATIC": "1"}
    variables |= {"QS_OUT": str(plan.out), "QS_PRESET": plan.preset.name, "QS_ROOT": str(plan.root)}
    variables["QS_RUNS"] = str(plan.out.parent)
    if is_tiny(plan.preset.name):
        # One thread whatever is left to do: sums, and so results, do not depend on it.
        variables.setdefault("OMP_NUM_THREADS", "1")
    elif jobs > 1:
        variables.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    return variables


def _cores() -> int:
    """The cores that this process may use."""
    mine = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(mine(0)) if mine else os.cpu_count() or 1


def _finish(outcome: Outcome, stamp: dict[str, Any]) -> None:
    """Complete the results of a notebook that ran. Its stamp, written last, says it is done."""
    run = outcome.run
    results = read_json(run.results)
    if results:
        # The notebook knows the time of its last record; the whole run took a little longer.
        write_json(run.results, results | {"seconds": round(outcome.seconds, 2)})
    if not outcome.error:
        write_json(run.folder / STAMP, stamp | {"outputs": run.outputs})


def _kept(run: Run, earlier: bool = False) -> Outcome:
    """The outcome of a run that is there already."""
    why = "unchanged, not run again"
    if earlier:
        found = run.changes()
        why = "an earlier run" + (f"; since then changed: {', '.join(found)}" if found else "")
    return Outcome(run, read_json(run.results).get("seconds", 0.0), None, why)


def _earlier(plan: Plan) -> list[Run]:
    """Finished runs in the plan's folder of notebooks that this report was not asked for."""
    asked = {run.stem for run in plan.runs}
    every = sorted((plan.root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    runs = [Run(path, plan.preset, plan.out) for path in every if path.stem not in asked]
    return [replace(run, passed=run.stamp["passed"]) for run in runs if run.stamp]


def _committed(outcome: Outcome) -> Outcome:
    """Commit what a refresh ran; the outcome says so if it could not be cleaned."""
    from .refresh import commit_run

    run = outcome.run
    if outcome.error or not run.stamp or (outcome.kept and not run.committed_changes()):
        return outcome
    try:
        commit_run(run)
    except ValueError as unclean:
        return outcome._replace(error=str(unclean))
    return outcome
