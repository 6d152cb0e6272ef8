"""A project with small notebooks that a report can run, and what tests of reports share."""

import re
from functools import partial
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qs_helpers.report.check import plan_report
from qs_helpers.report.execute import report
from qs_helpers.report.run import Preset, Run

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
ALT = 'Line from 1 to 3, with "quotes" & <signs>.'
TOY = [
    new_markdown_cell(
        "# 01 · A toy\n\n**Question.** Does *this*\nrun?\n\n**Writes.** One figure.\n\n"
        "[← previous](00_build_tiny_scope.ipynb) · [next →](09_nowhere.ipynb)"
    ),
    new_code_cell(
        'PRESET: str = "auto"  # scope\nN_TEXTS: int = None  # texts\n'
        'REVISION: str = "x"  # version',
        metadata={"tags": ["parameters"]},
    ),
    new_code_cell("import sys\nimport qs_helpers as qs\nimport matplotlib.pyplot as plt"),
    new_code_cell('qs.measured("01_toy")', metadata={"tags": ["results"]}),
    new_code_cell(
        'qs.start_run("01_toy", PRESET, {"N_TEXTS": N_TEXTS, "REVISION": REVISION})\n'
        'qs.record("executable", sys.executable.rsplit("/", 3)[1:])\n'
        'qs.record("provenance", {"model": {"sha256": "abc"}, "device": "cpu"})\n'
        'qs.announce({"one": {"asks": "Is one <one>?", "above": 0.5}})\n'
        'qs.claim("one", "one is one", qs.Estimate(1.0, 0.9, 1.1, 20, 10))\n'
        'qs.holds("hooks-left", "no hook is left", True, 0)'
    ),
    new_code_cell(
        "import pandas as pd\nfig, ax = plt.subplots()\nax.plot([1, 2, 3])\n"
        f'qs.save_figure(fig, "line", {ALT!r}, pd.DataFrame({{"y": [1, 2, 3]}}))'
    ),
]


def write_project(tmp_path: Path) -> Path:
    """A project with two notebooks: 01 runs, 02 fails halfway; and 00, as committed."""
    params = tmp_path / "notebooks" / "params"
    params.mkdir(parents=True)
    (params / "tiny.yaml").write_text("01_toy:\n  N_TEXTS: 4\n  REVISION: x\n")
    folder = params.parent
    notebook = partial(new_notebook, metadata=KERNEL)
    nbformat.write(notebook(cells=TOY), folder / "01_toy.ipynb")
    broken = [
        new_markdown_cell("# 02 · Broken\n\n**Question.** Is it kept?"),
        new_code_cell('PRESET: str = "auto"  # scope', metadata={"tags": ["parameters"]}),
        new_code_cell("print('before')"),
        new_code_cell("raise KeyError('halfway')"),
    ]
    nbformat.write(notebook(cells=broken), folder / "02_broken.ipynb")
    built = new_code_cell("train()", execution_count=1)
    built.outputs = [new_output("stream", name="stdout", text="loss 0.01, as committed\n")]
    build = [new_markdown_cell("# 00 · The build\n\n**Question.** How?"), built]
    nbformat.write(notebook(cells=build), folder / "00_build_tiny_scope.ipynb")
    return tmp_path


def count_runs(project: Path) -> Path:
    """The project, in which 01 counts its runs and 02 does not fail."""
    for name in ("01_toy", "02_broken"):
        path = project / "notebooks" / f"{name}.ipynb"
        nb = nbformat.read(path, as_version=4)
        if name == "01_toy":
            nb.cells.append(new_code_cell("open('../count.txt', 'a').write('x')"))
        else:
            nb.cells[-1].source = "1"
        nbformat.write(nb, path)
    return project


def runs_of(project) -> int:
    """How often the first notebook ran: it counts in a file."""
    path = project / "count.txt"
    return len(path.read_text()) if path.is_file() else 0


def edit_cell(project, number, text):
    path = project / "notebooks" / "01_toy.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[number].source = text
    nbformat.write(nb, path)


def write_parameter(project, name, value: str):
    """Declare a parameter of the first notebook, and its value on tiny."""
    edit_cell(project, 1, f"{TOY[1].source}\n{name}: str = None  # declared by a test")
    path = project / "notebooks" / "params" / "tiny.yaml"
    path.write_text(f"{path.read_text()}  {name}: {value!r}\n")


def run_report(project, *argv, **options):
    """Plan and report as the command line does; (index, outcomes)."""
    given = options.pop("given", [])
    jobs = options.pop("jobs", None)
    plan = plan_report("tiny", *argv, given=given, root=project, **options)
    return report(plan, jobs, quiet=True, fresh=options.get("fresh", False))


def toy_run(project, stem="01_toy", **passed) -> Run:
    """The record of a notebook's run on tiny."""
    preset = Preset("tiny", project / "notebooks" / "params")
    return Run(project / "notebooks" / f"{stem}.ipynb", preset, project / "runs" / "tiny", passed)


def loads(html: str) -> list[str]:
    """What a browser would fetch for a page, data: addresses apart; links are not fetched."""
    found = re.findall(r"<(?:script|link|iframe|object|embed)[^>]*>", html)
    found += re.findall(r'src="(?!data:)[^"]*"', html)
    return found + re.findall(r"@import[^;]*|url\([^)]*\)", html)


def kernels() -> list:
    """Processes that this one began and that are alive."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
