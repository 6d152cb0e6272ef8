"""Builds notebooks for a workshop: python -m qs_helpers.report.workshop [--only 01 02] [--no-run].

Each notebook with cells tagged "exercise" is written three times, over what was built before:
runs/workshop/reader/ has it as it is, student/ with a stub for each solution and without outputs,
solution/ with solutions and without outputs. Each folder is a small project, presets and figures
included, that can be handed out by itself. Then the builds are run on fresh kernels: the solution
must reach its last cell, and the student's may fail at its stubs only.

The stubs are made by preprocessors of nbgrader; its server, database and metadata are not needed.
"""

import argparse
import os
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbformat import NotebookNode

from ..presets import project_root, runs_folder
from .child import over_files, short_folder
from .run import find_notebooks, near

STUB = "raise NotImplementedError"
PATIENCE = 900  # seconds that a cell may take


def student(nb: NotebookNode) -> NotebookNode:
    """A copy without outputs, in which a stub stands for each solution; signature, docstring, hints
    and tags stay. RuntimeError for a solution that does not end."""
    from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions

    stubs = ClearSolutions(enforce_metadata=False, code_stub={"python": STUB})
    nb, _ = stubs.preprocess(solution(nb), {})
    nb, _ = ClearHiddenTests(enforce_metadata=False).preprocess(nb, {})
    return nb


def solution(nb: NotebookNode) -> NotebookNode:
    """A copy without outputs, solutions left in."""
    from nbgrader.preprocessors import ClearOutput

    nb, _ = ClearOutput().preprocess(deepcopy(nb), {})
    nb.metadata.pop("qs", None)  # the stamp of outputs that are gone
    return nb


def verify(nb: NotebookNode, folder: Path, stubs: bool) -> list[str]:
    """Run a build in a folder, on a fresh kernel and with an output folder that is thrown away, and
    tell what is wrong with it: nothing for a good one.

    stubs: it is a student's. Then exercises and their checks may raise NotImplementedError, and one
    of the checks of an exercise must: else they accept a stub, and check nothing.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    ran, problems = deepcopy(nb), []
    variables = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    with TemporaryDirectory(prefix="qs-", dir=short_folder()) as out:
        quiet = {"QS_OUT": out, "QS_STATIC": "1", "TQDM_DISABLE": "1"}
        how = {"kernel_name": "python3", "timeout": PATIENCE, "allow_errors": stubs}
        how |= {"resources": {"metadata": {"path": str(folder)}}, "config": over_files(out)}
        try:
            NotebookClient(ran, **how).execute(env=variables | quiet)
        except CellExecutionError:
            pass  # the error is in the outputs
        except (CellTimeoutError, RuntimeError) as ended:  # RuntimeError: its kernel died
            problems.append(f"{type(ended).__name__}: {str(ended).strip().splitlines()[0]}")
    # Of the exercise at hand: the checks that ran, and whether one of them refused the stub.
    checks, stopped = [], False

    def accepted():
        unrefused = stubs and checks and not stopped
        return [f"{checks[0]}: the check accepts a stub"] if unrefused else []

    for number, cell in enumerate(ran.cells):
        at, tags = f"cell {number}, {cell.source[:40]!r}", set(cell.metadata.get("tags", []))
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        if "exercise" in tags:
            problems += accepted()
            checks, stopped = [], False
        stops = {"NotImplementedError"} if stubs and tags & {"exercise", "check"} else set()
        if stops and stopped:  # what a cell that stopped would have made is missing behind it
            stops.add("NameError")
        for error in errors:
            if error.ename not in stops:
                problems.append(f"{at}: {error.ename}: {error.evalue}")
        if "check" in tags and cell.execution_count:
            checks.append(at)
            stopped |= bool(errors)
    problems += accepted()
    return problems


def build(notebook: Path, out: Path) -> dict[str, NotebookNode]:
    """Write reader, student and solution of a notebook; they are returned by these names."""
    nb = nbformat.read(notebook, as_version=4)
    builds = {"reader": nb, "student": student(nb), "solution": solution(nb)}
    figures = notebook.parents[1] / "figures" / notebook.stem
    for name, built in builds.items():
        params = out / name / "notebooks" / "params"
        shutil.copytree(notebook.parent / "params", params, dirs_exist_ok=True)
        if figures.is_dir():
            shutil.copytree(figures, out / name / "figures" / notebook.stem, dirs_exist_ok=True)
        nbformat.write(built, params.parent / notebook.name)
    return builds


def exercises(notebook: Path) -> int:
    """How many cells of a notebook are tagged exercise."""
    cells = nbformat.read(notebook, as_version=4).cells
    return sum("exercise" in cell.metadata.get("tags", []) for cell in cells)


def problems_of(notebook: Path, out: Path, run: bool) -> list[str]:
    """Build a notebook and, if it is to be `run`, verify what was built; each problem begins with
    the build that has it."""
    try:
        builds = build(notebook, out)
    except RuntimeError as broken:  # markers that do not match
        return [f"student: {broken}"]
    found = []
    for name in ("solution", "student") if run else ():
        problems = verify(builds[name], out / name / "notebooks", stubs=name == "student")
        found += [f"{name}: {problem}" for problem in problems]
    return found


def main(argv: list[str] | None = None) -> int:
    """Build and verify, one line a notebook. Returns 0; 1 for problems; 2 if it could not begin."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[1])
    parser.add_argument("--only", nargs="+", metavar="NB", help="numbers or names of notebooks")
    parser.add_argument("--no-run", action="store_true", help="build only, verify nothing")
    args = parser.parse_args(argv)
    root, out, found = project_root(), runs_folder() / "workshop", {}
    good = "built, not run" if args.no_run else "solution runs, student stops at its stubs only"
    try:
        for notebook in find_notebooks(root / "notebooks", args.only):
            n = exercises(notebook)
            if not n:
                print(f"{notebook.stem}: no exercises, left out")
                continue
            found[notebook] = problems = problems_of(notebook, out, not args.no_run)
            how = "problems:" if problems else good
            print(f"{notebook.stem}: {n} exercises, {how}", *problems, sep="\n    ", flush=True)
    except (ValueError, ModuleNotFoundError) as bad:
        hint = "; make workshop installs it" if isinstance(bad, ModuleNotFoundError) else ""
        print(f"workshop: {bad}{hint}", file=sys.stderr)
        return 2
    if found:
        print(f"reader, student and solution are in {near(out)}")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
