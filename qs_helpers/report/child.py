"""Runs one notebook in a process of its own: python -m qs_helpers.report.child.

Arguments: the notebook, where its executed copy goes, and parameters as JSON. It prints a line
"cell" after each code cell, and at the end {"seconds": …, "error": one line or null}. A line on
standard input ends the run and keeps what there is; standard input that ends, because the report
has died, ends it at once.
"""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from threading import Thread

import psutil

from ..evidence.files import write_whole

PATIENCE = 20  # seconds for papermill to see that its kernel is gone, and to write the notebook


def main(notebook: str, executed: str, parameters: str) -> None:
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the kernel prints by itself is no message
    Thread(target=_watch, daemon=True).start()
    # Where it is installed, jsonschema imports it for a whole second, to check web addresses.
    sys.modules.setdefault("rfc3987_syntax", None)
    import papermill

    _write_whole(papermill)
    start, error = time.monotonic(), None
    try:
        with TemporaryDirectory(prefix="qs-", dir=short_folder()) as sockets:
            papermill.execute_notebook(
                notebook,
                executed,
                json.loads(parameters),
                kernel_name="python3",
                progress_bar=False,
                coalesce_streams=True,
                on_cell_executed=lambda **_: print("cell", file=told),
                shutdown_kernel="immediate",
                config=over_files(sockets),
            )
    except papermill.PapermillExecutionError as failed:
        error = f"{failed.ename}: {failed.evalue}"
    except Exception as failed:  # a dead kernel, a full disk
        error = f"{type(failed).__name__}: {failed}"
    error = error and error.strip().splitlines()[0]
    print(json.dumps({"seconds": time.monotonic() - start, "error": error}), file=told)


def _write_whole(papermill) -> None:
    """Make papermill write notebooks whole or not at all: this process can end at any moment."""

    class Whole(papermill.iorw.LocalHandler):
        def write(self, buf, path):
            write_whole(Path(path), buf.encode(errors="backslashreplace"))

    papermill.iorw.papermill_io.register("", Whole())  # the scheme that every path begins with


def _watch() -> None:
    """Wait until the report wants an end, or is dead; then kill the kernel, which is our child."""
    asked = sys.stdin.readline()
    deadline = time.monotonic() + (PATIENCE if asked else 0)
    while True:  # again and again: the kernel may just be starting
        for child in psutil.Process().children(recursive=True):
            try:
                child.kill()
            except psutil.NoSuchProcess:
                pass
        if time.monotonic() >= deadline:
            os._exit(1)
        time.sleep(0.2)


def over_files(folder: str):
    """Settings of a kernel that talks over files in a folder, not over network ports: ports can be
    taken by others between choice and use, and anybody on the machine can listen."""
    from traitlets.config import Config

    if os.name == "nt":  # no such files there
        return Config()
    connection = {"transport": "ipc", "connection_file": os.path.join(folder, "kernel.json")}
    return Config(AsyncKernelManager=connection)


def short_folder() -> str | None:
    """Where sockets go: the path of one may have about 100 bytes, and a TMPDIR can be longer.
    OSError where there is no place for them."""
    if os.name == "nt":  # none are made
        return None
    for folder in (gettempdir(), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", "")):
        if len(os.fsencode(folder)) <= 70 and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise OSError("no folder for sockets: set TMPDIR to one whose path has at most 70 bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
