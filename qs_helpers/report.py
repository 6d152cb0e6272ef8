"""Run the notebooks on a preset and write a report of web pages.

    python -m qs_helpers.report --preset tiny [--only 01 03] [-p NAME VALUE] [--refresh]

find_notebooks    the notebooks that a report runs, in order
check_parameters  parameters given as text, checked against each notebook, before any run
run_notebook      one notebook through papermill; the executed copy is kept, also on failure
report            run all, write the pages, return the path of the index and the failures
main              the command line

Everything is written to runs/<preset>/. Only --refresh writes elsewhere: it puts cleaned,
executed copies into notebooks/ and their figures and results into figures/<notebook>/.
"""

import argparse
import os
import re
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import nbformat
import yaml
from tqdm import tqdm

from .files import write_json
from .pages import BUILD, read_results, write_index, write_notebook_page
from .presets import (
    check_type,
    is_tiny,
    nearest,
    preset_values,
    project_root,
    resolve_preset,
)
from .refresh import commit_run

__all__ = [
    "Outcome",
    "check_parameters",
    "find_notebooks",
    "main",
    "report",
    "run_notebook",
]

TYPES = {"str": "", "int": 0, "float": 0.0, "bool": False, "list": [], "dict": {}}


class Outcome(NamedTuple):
    """How one notebook ended. `error` is one line, or None."""

    notebook: Path
    executed: Path
    seconds: float
    error: str | None


def find_notebooks(folder: Path, only: list[str] | None = None) -> list[Path]:
    """The notebooks NN_*.ipynb of a folder, sorted; with `only`, those numbers or names.

    00 builds the embedded scope for half an hour: it is run only when it is named. ValueError
    if nothing is found.
    """
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not only:
        every = [p for p in every if p.stem != BUILD]
    if not every:
        raise ValueError("no notebooks found: notebooks/01_*.ipynb and on are expected")
    for wanted in only or []:
        if not any(wanted in (p.stem, p.stem[:2]) for p in every):
            raise ValueError(f"--only {wanted}: {nearest(wanted, [p.stem for p in every])}")
    return [p for p in every if not only or p.stem in only or p.stem[:2] in only]


def check_parameters(
    notebooks: list[Path], given: list[tuple[str, str]], preset: str
) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook (by stem) from names and values given as text.

    A name goes to every notebook that declares it. ValueError for a name that none declares,
    with the nearest one; TypeError for a value of another type than declared.
    """
    import papermill

    declared = {p.stem: papermill.inspect_notebook(str(p)) for p in notebooks}
    known = {name for names in declared.values() for name in names} - {"PRESET"}
    passed: dict[str, dict[str, Any]] = {p.stem: {"PRESET": preset} for p in notebooks}
    for name, text in given:
        if name not in known:
            raise ValueError(f"parameter {name!r} is in no notebook; {nearest(name, known)}")
        for stem, names in declared.items():
            if name in names:
                kind = re.match(r"\w*", names[name]["inferred_type_name"] or "")[0]
                value = text if kind == "str" else yaml.safe_load(text)
                value = check_type(name, value, TYPES.get(kind))
                value = check_type(name, value, preset_values(stem, preset).get(name))
                passed[stem][name] = value
    return passed


def run_notebook(path: Path, executed: Path, parameters: dict[str, Any], progress=None) -> Outcome:
    """Run one notebook with papermill; its cells' folder is the notebook's own.

    executed: where the executed copy goes, also a half-executed one; progress: called after
    each code cell. An error of the notebook does not raise, it is in the outcome.
    """
    import papermill

    executed.parent.mkdir(parents=True, exist_ok=True)
    start, error = time.monotonic(), None
    try:
        with TemporaryDirectory(prefix="qs-") as sockets:
            papermill.execute_notebook(
                str(path),
                str(executed),
                parameters=parameters,
                kernel_name="python3",
                km=_kernel(sockets),
                cwd=str(path.parent),
                progress_bar=False,
                coalesce_streams=True,
                on_cell_executed=lambda **_: progress() if progress else None,
            )
    except papermill.PapermillExecutionError as failed:
        error = f"{failed.ename}: {failed.evalue}".strip().splitlines()[0]
    except Exception as failed:  # a dead kernel, a full disk: the other notebooks go on
        error = f"{type(failed).__name__}: {failed}".strip().splitlines()[0]
    return Outcome(path, executed, time.monotonic() - start, error)


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
def _environment(**values: str):
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
    preset: str,
    only: list[str] | None = None,
    given: list[tuple[str, str]] = (),
    *,
    refresh: bool = False,
    root: Path | None = None,
) -> tuple[Path, list[Outcome]]:
    """Run the notebooks of `root`/notebooks on a preset and write `root`/runs/<preset>/index.html.

    Raises ValueError or TypeError, before anything runs, for a preset, notebook or parameter
    that does not exist or has the wrong type. A notebook that fails is kept and shown, and the
    others still run. Returns the path of the index and the outcome of each notebook.
    """
    root = root or project_root()
    notebooks = find_notebooks(root / "notebooks", only)
    preset_values(notebooks[0].stem, preset, root / "notebooks" / "params")
    parameters = check_parameters(notebooks, given, preset)
    out = root / "runs" / preset
    outcomes = []
    # Inside a notebook every bar is off: a bar in an output is noise, and widgets die there.
    quiet = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "QS_STATIC": "1"}
    cells = [cell for path in notebooks for cell in nbformat.read(path, as_version=4).cells]
    injected = 0 if refresh else len(notebooks)  # papermill adds a cell for passed parameters
    total = sum(cell.cell_type == "code" for cell in cells) + injected
    with (
        _environment(QS_OUT=str(out), QS_PRESET=preset, **quiet),
        tqdm(total=total, unit="cell", file=sys.stderr) as bar,
    ):
        for path in notebooks:
            bar.set_description(path.stem)
            shutil.rmtree(out / path.stem, ignore_errors=True)  # no claims of an older run
            # Without a passed preset there is no injected cell, as a committed notebook needs.
            passed = {} if refresh else parameters[path.stem]
            outcomes.append(run_notebook(path, out / path.name, passed, bar.update))
    build = root / "notebooks" / f"{BUILD}.ipynb"
    build = build if is_tiny(preset) and build.is_file() else None
    pages = {path.stem for path in (*notebooks, *([build] if build else []))}
    for outcome in outcomes:
        path = out / outcome.notebook.stem / "results.json"
        results = read_results(path)
        if results:
            # The notebook knows the time of its last record; the whole run took a little longer.
            write_json(path, results | {"seconds": round(outcome.seconds, 2)})
        if refresh and not outcome.error:
            figures = root / "figures" / outcome.notebook.stem
            commit_run(outcome.executed, path.parent, outcome.notebook, figures)
        write_notebook_page(outcome, preset, pages)
    return write_index(outcomes, preset, out, build), outcomes


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns 0, or 1 if a notebook failed, or 2 for a bad argument."""
    parser = argparse.ArgumentParser(prog="qs-report", description="Run the notebooks on a preset.")
    parser.add_argument("--preset", default="auto", help="default: $QS_PRESET, else tiny")
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers or names of notebooks")
    parser.add_argument(
        *("-p", "--parameter"),
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of a notebook; may be given several times",
    )
    parser.add_argument(
        "--refresh", action="store_true", help="also write notebooks/ and figures/ anew"
    )
    args = parser.parse_args(argv)
    given = [tuple(pair) for pair in args.parameter]
    if args.refresh and given:
        parser.error("--refresh takes no -p: committed notebooks show their own parameters")
    try:
        index, outcomes = report(
            resolve_preset(args.preset), args.only, given, refresh=args.refresh
        )
    except (ValueError, TypeError) as bad:
        print(f"qs-report: {bad}", file=sys.stderr)
        return 2
    failed = [o for o in outcomes if o.error]
    for outcome in failed:
        print(f"{outcome.notebook.stem} failed: {outcome.error}", file=sys.stderr)
    print(os.path.relpath(index))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
