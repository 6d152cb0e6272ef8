"""Puts an executed notebook into the project, clean: this is how committed outputs are made."""

import re
import shutil

import nbformat

from ..evidence import answer
from ..evidence.record import measured_line
from .run import CLAIMS, Run, outputs_digest

# An absolute path of some machine, in text. What stands before the slash tells it from "and/or",
# web addresses, HTML end tags and relative paths; a drive letter needs a folder after it, which
# tells it from an escape such as "K:\n".
MACHINE_PATH = re.compile(
    r"(?<![\w./:<~)\]}])/(?:[A-Za-z][\w.-]*/[\w.-]+|(?:home|root|tmp)\b)|\b[A-Z]:\\\w+\\"
)


def clean(nb) -> None:
    """Remove widget state, timings, injected cells and details of the machine, in place.

    Raises ValueError naming the cell if an absolute path of a machine is left in it.
    """
    nb.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    banners = {"injected-parameters", "papermill-error-cell-tag"}
    nb.cells = [c for c in nb.cells if not banners & set(c.metadata.get("tags", []))]
    for number, cell in enumerate(nb.cells):
        for key in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        for output in cell.get("outputs", []):
            for mime in [m for m in output.get("data", {}) if "jupyter.widget" in m]:
                del output["data"][mime]
        found = MACHINE_PATH.search(cell_text(cell))
        if found:
            raise ValueError(f"cell {number} shows a path of this machine: {found[0]}…")


def cell_text(cell) -> str:
    """Source and all outputs of a cell as text, without its pictures."""
    texts = [cell.source]
    for output in cell.get("outputs", []):
        texts += [output.get("text", ""), *output.get("traceback", [])]
        data = output.get("data", {})
        texts += [str(data[mime]) for mime in data if not mime.startswith("image/")]
    return "\n".join(texts)


def fill_answer(nb, run: Run) -> None:
    """Let the cells that tell the outcome of a run tell that of this one, in place: they ran before
    there was any."""
    for cell in nb.cells:
        if cell.cell_type == "code" and "results" in cell.metadata.get("tags", []):
            if answer.CALL in cell.source:
                found = answer.shown(run.results, run.folder / "figures")
                cell.outputs = [
                    nbformat.v4.new_output("display_data", data, metadata=metadata)
                    for data, metadata in found
                ]
            elif cell.source.startswith("qs.measured("):
                text = measured_line(run.results) + "\n"
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]


def commit_run(run: Run) -> None:
    """Replace a committed notebook, its figures, results and samples by those of a run.

    The notebook gets the run's stamp, with a digest of what is committed. ValueError, with nothing
    replaced, if the run shows a path of this machine.
    """
    nb = nbformat.read(run.executed, as_version=4)
    fill_answer(nb, run)
    clean(nb)
    shutil.rmtree(run.figures, ignore_errors=True)
    if (run.folder / "figures").is_dir():
        shutil.copytree(run.folder / "figures", run.figures)
    if (run.folder / CLAIMS).is_dir():
        shutil.copytree(run.folder / CLAIMS, run.figures / CLAIMS)
    if run.results.is_file():
        run.figures.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.results, run.figures)
    nbformat.write(nb, run.notebook)
    nb.metadata["qs"] = run.stamp | {"outputs": outputs_digest(run.notebook, run.figures)}
    nbformat.write(nb, run.notebook)
