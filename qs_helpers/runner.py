"""Run notebooks: through papermill, several at a time, with a bar for all of them.

Outcome       how one notebook ended
run_notebook  one notebook; the executed copy is kept, also on failure
run_all       several, at most `jobs` at a time
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import chdir, contextmanager, suppress
from functools import partial
from pathlib import Path
from signal import SIGINT, signal
from tempfile import TemporaryDirectory
from threading import Event, current_thread, main_thread
from typing import Any, NamedTuple

__all__ = ["Outcome", "run_all", "run_notebook"]

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
