"""The process that runs one notebook."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from toy_project import KERNEL

from qs_helpers.report import child


def start(tmp_path, *sources, **env) -> subprocess.Popen:
    """The worker, on a notebook with these cells."""
    notebook = new_notebook(cells=[new_code_cell(s) for s in sources], metadata=KERNEL)
    nbformat.write(notebook, tmp_path / "a.ipynb")
    command = [sys.executable, "-P", "-m", "qs_helpers.report.child", "a.ipynb", "b.ipynb", "{}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, env=os.environ | env, **pipes)


def test_it_tells_of_each_cell_and_of_the_error(tmp_path):
    with start(tmp_path, "import os; os.system('echo noise')", "1 / 0", "3") as worker:
        *cells, last = worker.stdout.read().splitlines()
    assert cells == ["cell"] * 2 and worker.returncode == 0
    assert json.loads(last)["error"] == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in (tmp_path / "b.ipynb").read_text()


@pytest.mark.parametrize("killed", [False, True])
def test_no_kernel_outlives_it(tmp_path, killed):
    """A line on standard input ends it and keeps what there is; so does the report's death."""
    worker = start(tmp_path, "print(6 * 7)", "open('here', 'w').close()", "while True: pass")
    while not (tmp_path / "here").exists():
        time.sleep(0.1)
    (kernel,) = psutil.Process(worker.pid).children()
    if not killed:
        worker.stdin.write("stop\n")
    worker.stdin.close()
    worker.stdout.read()
    worker.wait(timeout=60)
    psutil.wait_procs([kernel], timeout=10)
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    assert "42" in (tmp_path / "b.ipynb").read_text()


def test_a_notebook_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """Papermill writes it after every cell, and the process can end while it does."""
    monkeypatch.setattr(papermill.iorw, "papermill_io", papermill.iorw.PapermillIO())
    child._write_whole(papermill)
    path = tmp_path / "a.ipynb"
    papermill.iorw.papermill_io.write("whole \ud800", str(path))
    assert path.read_text() == "whole \\ud800"  # half a character does not lose the notebook
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)  # where the end comes
    with pytest.raises(ZeroDivisionError):
        papermill.iorw.papermill_io.write("newer", str(path))
    assert path.read_text() == "whole \\ud800"


@pytest.mark.parametrize(
    ("temporary", "runtime", "usable", "chosen"),
    [
        ("/short", "", {"/short", "/tmp"}, "/short"),
        ("/long" * 20, "", {"/long" * 20, "/tmp"}, "/tmp"),
        ("/short", "", {"/var/tmp"}, "/var/tmp"),
        ("/long" * 20, "/run/user/1", {"/long" * 20, "/run/user/1"}, "/run/user/1"),
        ("/é" * 34, "", {"/é" * 34, "/tmp"}, "/tmp"),  # 68 letters of 102 bytes
        ("/long" * 20, "/run" * 20, {"/long" * 20, "/run" * 20}, None),
    ],
)
def test_sockets_go_where_their_paths_are_short(monkeypatch, temporary, runtime, usable, chosen):
    monkeypatch.setattr(child, "gettempdir", lambda: temporary)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(os, "access", lambda path, _: path in usable)
    if chosen:
        assert child.short_folder() == chosen
    else:
        with pytest.raises(OSError, match="set TMPDIR to one whose path has at most 70 bytes"):
            child.short_folder()


@pytest.mark.parametrize("home", [None, "taken/home"])
def test_nobody_at_home_is_no_obstacle(tmp_path, home):
    """HOME is not set, or is a folder that cannot be made."""
    (tmp_path / "taken").write_text("")
    keep = {name: value for name, value in os.environ.items() if name != "HOME"}
    env = keep | ({} if home is None else {"HOME": str(tmp_path / home)})
    code = "import qs_helpers as qs, matplotlib.pyplot as plt\nqs.plot_style()\nplt.figure()"
    notebook = new_notebook(cells=[new_code_cell(code)], metadata=KERNEL)
    nbformat.write(notebook, tmp_path / "a.ipynb")
    command = [sys.executable, "-P", "-m", "qs_helpers.report.child", "a.ipynb", "b.ipynb", "{}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=env, **pipes) as worker:
        assert json.loads(worker.stdout.read().splitlines()[-1])["error"] is None


def test_a_long_temporary_folder_is_no_obstacle(tmp_path):
    """The path of a socket has at most about 100 bytes."""
    folder = tmp_path / ("a-cluster-with-long-names-" * 4)
    folder.mkdir()
    with start(tmp_path, "print(6 * 7)", TMPDIR=str(folder)) as worker:
        assert json.loads(worker.stdout.read().splitlines()[-1])["error"] is None
