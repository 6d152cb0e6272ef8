"""The good notebook, and what can go wrong with it.

BAD has one line for each defect: its name, the gate of notebook_gates.py that must reject it, what
that gate must say, and an edit that makes the defect in a copy of good.ipynb. A new gate comes
with a line here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat.v4 import new_output, new_raw_cell

GOOD = Path(__file__).with_name("good.ipynb")
# The cells of good.ipynb.
OPENING, PARAMETERS, IMPORTS, MEASURED, PROSE, FIGURE, ANNOUNCED, CLAIMED = range(8)


class Bad(NamedTuple):
    name: str
    gate: str
    says: str
    edit: Callable[[nbformat.NotebookNode], None]


def good() -> nbformat.NotebookNode:
    """A fresh copy of the notebook that every gate accepts."""
    return nbformat.read(GOOD, as_version=4)


def replace(cell: int, old: str, new: str):
    def edit(nb):
        assert old in nb.cells[cell].source, "the good notebook has changed"
        nb.cells[cell].source = nb.cells[cell].source.replace(old, new)

    return edit


def append(text: str, *cells: int):
    def edit(nb):
        for cell in cells:
            nb.cells[cell].source += f"\n{text}"

    return edit


def without_outputs(nb):
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = []


def opens_raw(nb):
    nb.cells.insert(0, new_raw_cell("---"))


def count(cell: int, number: int | None):
    return lambda nb: nb.cells[cell].update(execution_count=number)


def prints(text: str, stream: str = "stdout"):
    return shows(new_output("stream", name=stream, text=text))


def shows(output):
    return lambda nb: nb.cells[FIGURE].outputs.append(output)


def picture(mime: str, data: str, alt: str = "One white point."):
    """In the place of the figure."""
    output = new_output("display_data", {mime: data}, metadata={mime: {"alt": alt}})
    return lambda nb: nb.cells[FIGURE].update(outputs=[output])


def no_alt_text(nb):
    nb.cells[FIGURE].outputs[0].metadata = {}


def lines(n: int) -> str:
    return "\n".join(f"x{i} = {i}" for i in range(n))


def tagged(cell: int, *tags: str):
    return cell_metadata(cell, tags=list(tags))


def cell_metadata(cell: int, **entries):
    return lambda nb: nb.cells[cell].metadata.update(entries)


def notebook_metadata(**entries):
    return lambda nb: nb.metadata.update(entries)


QUESTION, ANSWER = "Does a notebook of the right form pass?", "It passes."
TIMING = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = {"application/vnd.jupyter.widget-state+json": {}}
FIGURE_OF_A_WIDGET = new_output("display_data", {WIDGET: {"model_id": "a"}, "text/plain": "bar"})
ERROR = new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
WHITE = "A" * 4 * 50_001  # 150,003 bytes
CLAIM, NO_LITERAL = 'qs.claim("white/c", "", 1)', 'qs.claim(name, "", 1)'
HOLDS, MEMBER = 'qs.holds("one-point", "", True)', 'qs.claim(f"white/{x}", "", 1)'
AGAIN = ("{", '{"white": {"asks": "Is it?"}, ')

BAD = [
    Bad("opens with no prose", "opening", "cell 0 must be markdown", opens_raw),
    Bad("no number", "opening", "begin with '# NN · Title'", replace(OPENING, "01 · ", "")),
    Bad("no question", "opening", "a line '**Question.** …'", replace(OPENING, "**", "")),
    Bad("no question mark", "opening", "must end with '?'", replace(OPENING, QUESTION, ANSWER)),
    Bad("says not what it writes", "opening", "'**Writes.** …'", replace(OPENING, "Writes", "Is")),
    Bad("no neighbours", "opening", "'[← previous](x.ipynb)", replace(OPENING, "good.ipynb", "")),
    Bad("dead link", "links", "link to x.ipynb, which", append("[nowhere](x.ipynb)", PROSE)),
    Bad("skipped level", "headings", "level 3 follows one of level 1", replace(PROSE, "##", "###")),
    Bad("two titles", "headings", "exactly one heading of level 1", replace(PROSE, "##", "#")),
    Bad("derived", "parameters", "help': DERIVED = 6", append("DERIVED = 6", PARAMETERS)),
    Bad("tag lost", "parameters", "exactly one cell is tagged", tagged(PARAMETERS)),
    Bad("two tags", "parameters", "exactly one cell is tagged", tagged(IMPORTS, "parameters")),
    Bad("two equals", "parameters", "x=3", append("LAYER: int = 3  # as in x=3", PARAMETERS)),
    Bad("union", "parameters", "int | None", append("LAYER: int | None = 3  # one", PARAMETERS)),
    Bad("no preset", "parameters", "need the line PRESET", replace(PARAMETERS, '"auto"', '"tiny"')),
    Bad("no versions", "imports", "and show versions", replace(IMPORTS, "qs.versions()", "[]")),
    Bad("no helper", "imports", "'import qs_helpers as qs'", replace(IMPORTS, " as qs", "")),
    Bad("not measured", "measured", "must be qs.measured", replace(MEASURED, "measured", "x")),
    Bad("measured, untagged", "measured", "tagged 'results'", tagged(MEASURED)),
    Bad("a long cell", "lengths", "a code cell has 27 lines", append(lines(26), FIGURE)),
    Bad("long cells", "lengths", "median", append(lines(11), *range(2, 8))),
    Bad("no announcement", "claims", "one place is to", replace(ANNOUNCED, "qs.", "my.")),
    Bad("two places", "claims", "one place is to", append("qs.announce({})", IMPORTS)),
    Bad("announced late", "claims", "a claim is judged before", append(CLAIM, FIGURE)),
    Bad("test first", "claims", "test split is named before", append('look("test")', FIGURE)),
    Bad("made-up id", "claims", "is no literal: qs.claim(name", append(NO_LITERAL, CLAIMED)),
    Bad(
        "formatted id",
        "claims",
        "'white-…' is not announced",
        replace(CLAIMED, "white/{", "white-{"),
    ),
    Bad("two of one id", "claims", "the id 'one-point'", append(HOLDS, CLAIMED)),
    Bad("two of a family", "claims", "the id 'white/…'", append(MEMBER, CLAIMED)),
    Bad("not announced", "claims", "'white/…' is not announced", replace(ANNOUNCED, "whi", "bla")),
    Bad("announced twice", "claims", "'white' is announced twice", replace(ANNOUNCED, *AGAIN)),
    Bad("announced by name", "claims", "written out", replace(ANNOUNCED, '"white":', "name:")),
    Bad("run again", "executed", "not run once, in order", count(FIGURE, 9)),
    Bad("not run", "executed", "not run once, in order", count(FIGURE, None)),
    Bad("no outputs", "executed", "there are no outputs", without_outputs),
    Bad("error", "quiet", "an error was committed: ValueError", shows(ERROR)),
    Bad("stderr", "quiet", "stderr was committed: careful", prints("careful\n", "stderr")),
    Bad("no glyph", "quiet", "lacks glyphs: No font for 中", prints("No font for 中 in 'a'\n")),
    Bad("home", "machine", "/home/somebody", prints("loaded /home/somebody/model.pt\n")),
    Bad("drive", "machine", r"C:\Users", prints("loaded C:\\Users\\somebody\\model.pt\n")),
    Bad("home in prose", "machine", "/home/somebody", append("See /home/somebody/a.pt.", PROSE)),
    Bad("home in metadata", "machine", "/home/me", notebook_metadata(path="/home/me/01.ipynb")),
    Bad("injected", "metadata", "an injected parameters", tagged(IMPORTS, "injected-parameters")),
    Bad("timing", "metadata", "has 'execution'", cell_metadata(FIGURE, execution=TIMING)),
    Bad("runner", "metadata", "notebook metadata has 'papermill'", notebook_metadata(papermill={})),
    Bad("widget state", "metadata", "has 'widgets'", notebook_metadata(widgets=STATE)),
    Bad("widget", "metadata", "an output is a widget", shows(FIGURE_OF_A_WIDGET)),
    Bad("no alt text", "pictures", "a picture has no alt text", no_alt_text),
    Bad("heavy", "pictures", "a picture has 150 kB, above 150", picture("image/png", WHITE)),
    Bad("vector", "pictures", "a picture is not a PNG", picture("image/svg+xml", "<svg/>")),
]
