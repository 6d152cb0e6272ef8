"""A report: planned, run notebook by notebook, and kept as long as nothing it depends on changes.

A report that was interrupted, even by kill -9, goes on where it was when it is started again. Only
a refresh writes outside of runs/: it puts what is stale, cleaned and executed anew, into notebooks/
and figures/.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import chdir, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from signal import SIGINT, signal
from tempfile import TemporaryDirectory
from threading import Event, current_thread, main_thread
from typing import Any, NamedTuple

from ..evidence.files import read_json, write_json
from ..loading.catalog import find_origin
from ..presets import is_tiny, preset_values, project_root
from .check import BUILD, check_parameters, check_preset, find_notebooks, known_layers
from .needs import check_access, check_memory
from .stamps import changes, committed_changes, make_stamp, outputs_digest


class Plan(NamedTuple):
    """What a report is to do. `stale` says per notebook (stem) why it runs; "" means it is kept. Of
    a refresh, `notebooks` are those that no longer fit what is committed.
    `needs` and `problems` are lines about memory, disk and network."""

    preset: str
    root: Path
    out: Path
    notebooks: list[Path]
    passed: dict[str, dict[str, Any]]
    stale: dict[str, str]
    needs: list[str]
    problems: list[str]
    refresh: bool = False


def run_folder(root: Path, preset: str, given: list[tuple[str, str]]) -> Path:
    """The folder of a run; parameters are in its name, or a digest of them where they are long."""
    words = [f"{name}={value}" for name, value in sorted(given)]
    name = "+".join([preset, *words])
    if not re.fullmatch(r"[\w.,=+-]{1,80}", name):
        name = f"{preset}+{sha256(repr(words).encode()).hexdigest()[:8]}"
    return root / "runs" / name


def plan_report(
    preset: str,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    given: list[tuple[str, str]] = (),
    *,
    refresh: bool = False,
    fresh: bool = False,
    root: Path | None = None,
) -> Plan:
    """Check everything that can be checked without running, and find what is done already.

    Raises ValueError for an unknown preset, notebook, parameter or value, and TypeError for a value
    of a wrong type. What this machine or the network cannot provide is in the plan's problems.
    """
    root = (root or project_root()).resolve()
    params = root / "notebooks" / "params"
    notebooks = find_notebooks(root / "notebooks", only, skip)
    preset_values("", preset, params)  # an unknown preset is refused with the nearest names
    origin = find_origin(preset, params)
    layers = known_layers(origin)
    check_preset(preset, notebooks, layers, params)
    passed = check_parameters(notebooks, given, preset, layers, params)
    if refresh and not fresh:
        notebooks = [path for path in notebooks if committed_changes(path, root, preset)]
    out = run_folder(root, preset, given)
    plan = Plan(preset, root, out, notebooks, passed, {}, [], [], refresh)
    for path in notebooks:
        plan.stale[path.stem] = "asked to run afresh" if fresh else why_stale(plan, path)
    values = {
        path.stem: preset_values(path.stem, preset, params) | passed[path.stem]
        for path in notebooks
        if plan.stale[path.stem]
    }
    if values:  # a report that only writes its pages needs nothing
        for found in (check_memory(origin, values), check_access(origin, values)):
            plan.needs.extend(found.lines)
            plan.problems.extend(found.problems)
    return plan


def plan_text(plan: Plan) -> str:
    """What a plan will run and why, with which values, and what it needs."""
    lines = [f"preset {plan.preset}, to {os.path.relpath(plan.out)}", *plan.needs]
    params = plan.root / "notebooks" / "params"
    for path in plan.notebooks:
        why = plan.stale[path.stem]
        lines.append(f"{path.stem}: " + (f"run ({why})" if why else "unchanged, not run again"))
        values = preset_values(path.stem, plan.preset, params) | plan.passed[path.stem]
        lines.append("    " + " · ".join(f"{name} {value}" for name, value in values.items()))
    return "\n".join(lines)


def why_stale(plan: Plan, path: Path) -> str:
    """Why a notebook must run, in words; "" if what it would give is there."""
    params = plan.root / "notebooks" / "params"
    there = (plan.out / path.stem / "stamp.json").is_file()
    found = run_changes(plan.out, path, plan.preset, plan.passed[path.stem], params)
    return ("changed: " * there + ", ".join(found)) if found else ""


def run_changes(
    out: Path, path: Path, preset: str, passed: dict[str, Any], params: Path
) -> list[str]:
    """What has changed since the run of a notebook in the folder `out`; [] if nothing has."""
    old, executed = read_json(out / path.stem / "stamp.json"), out / path.name
    new = make_stamp(path, preset, passed, params)
    found = changes(old, new)
    if not found:
        whole = executed.is_file() and outputs_digest(executed, out / path.stem) == old["outputs"]
        found = [] if whole else ["its outputs"]
    return found


STOPPED = "stopped before its end"


class Outcome(NamedTuple):
    """How one notebook ended. `error` is one line, or None."""

    notebook: Path
    executed: Path
    seconds: float
    error: str | None
    kept: str | None = None  # why it was not run again, in words


def run_notebook(
    path: Path,
    executed: Path,
    parameters: dict[str, Any],
    progress: Callable[[], Any],
    stop: Event,
) -> Outcome:
    """Run one notebook with papermill, in the current folder.

    executed: where the executed copy goes, also a half-executed one; progress: called after
    each code cell; stop: once it is set, no cell is begun. An error of the notebook does not raise,
    it is in the outcome.
    """
    import papermill
    from jupyter_core.utils import run_sync

    executed.parent.mkdir(parents=True, exist_ok=True)
    start, error = time.monotonic(), None

    def after_cell(**_) -> None:
        progress()
        if stop.is_set():
            raise RuntimeError(STOPPED)

    try:
        if stop.is_set():
            raise RuntimeError(STOPPED)
        with TemporaryDirectory(prefix="qs-") as sockets:
            kernel = _kernel(sockets)
            try:
                papermill.execute_notebook(
                    str(path),
                    str(executed),
                    parameters=parameters,
                    kernel_name="python3",
                    km=kernel,
                    progress_bar=False,
                    coalesce_streams=True,
                    on_cell_executed=after_cell,
                )
            finally:  # the kernel is ours, so papermill leaves it running
                if kernel.has_kernel:
                    run_sync(kernel.shutdown_kernel)(now=True)
    except papermill.PapermillExecutionError as failed:
        error = f"{failed.ename}: {failed.evalue}".strip().splitlines()[0]
    except Exception as failed:  # a dead kernel, a full disk: the other notebooks go on
        error = f"{type(failed).__name__}: {failed}".strip().splitlines()[0]
    return Outcome(path, executed, time.monotonic() - start, error)


def run_all(
    work: list[tuple[Path, Path, dict[str, Any]]],
    jobs: int,
    variables: dict[str, str],
    progress: Callable[[Path], Any],
    done: Callable[[Outcome], Outcome],
) -> list[Outcome]:
    """Run (notebook, executed copy, parameters), at most `jobs` at a time, begun in that order.

    Paths are absolute, and the notebooks are in one folder, which is the current one meanwhile.
    variables: of the environment of the kernels; progress(notebook): called after each code cell;
    done(outcome): called when a notebook has ended; returns the outcome, or one with an error. On
    Ctrl-C the kernels are stopped, what was
    running is in the outcomes as stopped, and no other notebook is begun.
    """
    import psutil

    outcomes, stop = {}, Event()
    folder = work[0][0].parent if work else "."
    # The current folder is the process's, so it is not for a thread to change it.
    with (
        _interrupt_sets(stop),
        chdir(folder),
        _environment(variables),
        ThreadPoolExecutor(jobs) as pool,
    ):
        futures = [
            pool.submit(run_notebook, path, executed, parameters, partial(progress, path), stop)
            for path, executed, parameters in work
        ]
        waiting = set(futures)
        while waiting and not stop.is_set():
            ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in ended:
                outcome = future.result()
                outcomes[outcome.notebook] = done(outcome)
        if stop.is_set():
            pool.shutdown(wait=False, cancel_futures=True)
        while stop.is_set() and not all(future.done() for future in futures):
            # Again and again: a kernel may just be starting.
            kernels = psutil.Process().children(recursive=True)
            for kernel in kernels:
                with suppress(psutil.NoSuchProcess):
                    kernel.kill()
            psutil.wait_procs(kernels, timeout=0.2)
    return [outcomes.get(path, Outcome(path, executed, 0.0, STOPPED)) for path, executed, _ in work]


def _kernel(sockets: str):
    """A manager for this Python's kernel, over files in a folder instead of network ports.

    Ports can be taken by others between choice and use, and anybody on the machine can listen.
    """
    from jupyter_client import AsyncKernelManager

    if os.name == "nt":  # no such files there
        return AsyncKernelManager(kernel_name="python3")
    connection = os.path.join(sockets, "kernel.json")
    return AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=connection)


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
def _environment(values: dict[str, str]):
    """Environment variables for the kernels, which inherit ours; put back at the end."""
    before = dict(os.environ)
    os.environ.pop("MPLBACKEND", None)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


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

    from .check import code_sources
    from .pages import write_index, write_notebook_pages

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
    from .commit import commit_run

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
