"""The answer that stands at the top of a notebook: sentences, a hero picture, time and memory.

`conclude` writes it at the end of a run; `answer` shows at the top what the committed run
concluded. A report and `make refresh` fill that cell with the answer of their own run.
"""

import base64
import json
from pathlib import Path
from typing import Any

from ..presets import is_tiny, project_root
from .files import write_json
from .record import current_run, measured_line

CALL = "qs.answer("  # how the cell of the answer is known, in any line of it


def conclude(text: str, hero: str) -> None:
    """Record the answer of this run, and show it.

    text: two or three sentences with their numbers, made from what was measured; hero: slug of the
    saved figure that shows it best. ValueError for no text, and for a figure that was not saved.
    """
    from IPython.display import display

    run = current_run()
    if not text.strip():
        raise ValueError("an answer needs a sentence")
    known = [figure["slug"] for figure in run.data["figures"]]
    if hero not in known:
        raise ValueError(f"hero {hero!r} was not saved: {', '.join(known) or 'no figure was'}")
    run.data["answer"] = {"text": " ".join(text.split()), "hero": hero}
    write_json(run.folder / "results.json", run.data)
    text = run.data["answer"]["text"]
    said = {"text/markdown": f"> **Answer.** {text}", "text/plain": f"Answer. {text}"}
    display(said, raw=True)


def answer(notebook: str) -> None:
    """Show the answer of the committed run, of figures/<notebook>/."""
    from IPython.display import display

    folder = project_root() / "figures" / notebook
    for data, metadata in shown(folder / "results.json", folder):
        display(data, raw=True, metadata=metadata)


def shown(path: Path, figures: Path) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """What the cell of the answer shows for the results.json at a path, as (data, metadata).

    figures: the folder that holds the hero.
    """
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if "answer" not in results:
        return [({"text/plain": "No answer yet: the last cell of the notebook writes it."}, {})]
    text, hero = results["answer"]["text"], results["answer"]["hero"]
    whose = ": a test bed, not a finding about Qwen" if is_tiny(results["preset"]) else ""
    below = f"{measured_line(path).removesuffix(results['preset'])}{results['preset']}{whose}."
    words = {
        "text/markdown": f"> **Answer.** {text}\n>\n> *{below}*",
        "text/plain": f"Answer. {text}\n{below}",
    }
    picture = figures / f"{hero}.png"
    if not picture.is_file():
        return [(words, {})]
    alt = next(figure["alt"] for figure in results["figures"] if figure["slug"] == hero)
    image = {"image/png": base64.b64encode(picture.read_bytes()).decode(), "text/plain": alt}
    return [(words, {}), (image, {"image/png": {"alt": alt}})]
