"""Put an executed notebook into the project, clean: the way committed outputs come to be."""

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat

from ..evidence.claims import measured_line
from .stamps import outputs_digest

# An absolute path of some machine, in text. What may stand before the slash is limited so that
# "and/or", web addresses, HTML end tags and relative paths are none; a drive needs a folder, so
# that an escape such as "K:\n" is none.
MACHINE_PATH = re.compile(
    r"(?<![\w./:<~)\]}])/(?:[A-Za-z][\w.-]*/[\w.-]+|(?:home|root|tmp)\b)|\b[A-Z]:\\\w+\\"
)


def clean(nb) -> None:
    """Strip a notebook in place of widget state, timings, injected cells and machine details.

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


def commit_run(
    executed: Path, results: Path, notebook: Path, figures: Path, stamp: dict[str, Any]
) -> None:
    """Replace a committed notebook, its figures and its results by those of a run.

    executed: the executed copy; results: the run's folder with results.json and figures/;
    notebook: the file to replace; figures: the folder to replace; stamp: of the run, written into
    the notebook with the digest of what is committed. ValueError, with nothing replaced, if the
    run shows a path of this machine.
    """
    nb = nbformat.read(executed, as_version=4)
    for cell in nb.cells:
        # This cell ran before the run was recorded; show what it prints from now on.
        if cell.cell_type == "code" and cell.source.startswith("qs.measured("):
            text = measured_line(results / "results.json") + "\n"
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    clean(nb)
    shutil.rmtree(figures, ignore_errors=True)
    if (results / "figures").is_dir():
        shutil.copytree(results / "figures", figures)
    if (results / "results.json").is_file():
        figures.mkdir(parents=True, exist_ok=True)
        shutil.copy(results / "results.json", figures)
    nbformat.write(nb, notebook)
    nb.metadata["qs"] = stamp | {"outputs": outputs_digest(notebook, figures)}
    nbformat.write(nb, notebook)
