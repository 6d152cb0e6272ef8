"""The good lesson, and what can go wrong with it: as bad_notebooks.py, for lessons.

A gate that asks something else of a lesson than of other notebooks has a line here too.
"""

from pathlib import Path

import nbformat
from bad_notebooks import Bad, append, cell_metadata, replace, tagged
from nbformat.v4 import new_code_cell

GOOD_LESSON = Path(__file__).with_name("good_lesson.ipynb")
# The cells of good_lesson.ipynb.
OPENING, ANSWER, ABOUT, PARAMETERS, SETUP, ANNOUNCED, PROSE, BY_HAND, FIGURE, CLAIMED = range(10)
EXERCISES, TASK, EXERCISE, CHECK, TASK_2, EXERCISE_2, CHECK_2, LEARNED, LAST = range(10, 19)


def good_lesson() -> nbformat.NotebookNode:
    """A fresh copy of the lesson that every gate accepts."""
    return nbformat.read(GOOD_LESSON, as_version=4)


def without(*cells: int):
    """Leave out cells; the others are numbered as a run would."""

    def edit(nb):
        nb.cells = [cell for i, cell in enumerate(nb.cells) if i not in cells]
        number_cells(nb)

    return edit


def inserted(cell: int, *sources: str):
    """New code cells before a cell, numbered as a run would."""

    def edit(nb):
        nb.cells[cell:cell] = [new_code_cell(source) for source in sources]
        number_cells(nb)

    return edit


def number_cells(nb):
    for number, cell in enumerate((c for c in nb.cells if c.cell_type == "code"), 1):
        cell.execution_count = number


def both(*edits):
    def edit(nb):
        for each in edits:
            each(nb)

    return edit


def code(cell: int, source: str):
    return lambda nb: nb.cells[cell].update(source=source)


def moved(cell: int, before: int):
    def edit(nb):
        nb.cells.insert(before, nb.cells.pop(cell))
        number_cells(nb)

    return edit


CLAIM = 'qs.claim("fair", f"The coin shows heads in {tosses.sum()} of {N_TOSSES} tosses", heads)'
DRAWN = 'def draw():\n    qs.save_figure(fig, "heads", "", counts)\n\n\ndraw()'
ONLY_HIDDEN, ONLY_TAGGED = {"jupyter": {"source_hidden": True}}, {"tags": ["hide-input"]}
SEVEN = "\n".join(f"N_{letter}: int = 1  # a size" for letter in "ABCDEFG")
MANY = ["1"] * 50
DOCSTRING, MEANING = '    """The mean of numbers."""\n', "mean_of([1, 2])"
INSIDE = "    ### BEGIN SOLUTION\n"

BAD_LESSONS = [
    Bad("no question", "opening", "**Question.**", replace(OPENING, "**Question.**", "Question:")),
    Bad("late links", "opening", "the first three", moved(ABOUT, LEARNED)),
    Bad("nine", "parameters", "9 parameters, above 8", append(SEVEN, PARAMETERS)),
    Bad("tag lost", "parameters", "the second code cell", tagged(PARAMETERS)),
    Bad("set-up shown", "imports", "and be folded", cell_metadata(SETUP, tags=[], jupyter={})),
    Bad("no import", "imports", "the third code cell", code(SETUP, "run = 1")),
    Bad("another's", "measured", "qs.answer(its name)", append("x = 1", ANSWER)),
    Bad("untagged", "measured", "tagged 'results'", tagged(ANSWER, "hide-input")),
    Bad(
        "only in JupyterLab", "folded", "hidden in one place", cell_metadata(BY_HAND, **ONLY_HIDDEN)
    ),
    Bad("only on pages", "folded", "hidden in one place", cell_metadata(BY_HAND, **ONLY_TAGGED)),
    Bad("a log", "few_cells", "above 50", inserted(BY_HAND, *MANY)),
    Bad("no conclusion", "concluded", "must call qs.conclude", without(LAST)),
    Bad("an end after it", "concluded", "must call qs.conclude", inserted(LAST + 1, "1")),
    Bad("no sentence", "said", "figure of qs.save_figure", code(CLAIMED, "heads = 1")),
    Bad("a literal", "said", "no sentence", code(CLAIMED, "print('Heads come up.')")),
    Bad("a sentence too late", "said", "no sentence", inserted(CLAIMED, "heads = 1")),
    Bad("before it", "said", "no sentence", moved(CLAIMED, FIGURE)),
    Bad("a function's", "said", "of draw()", both(code(FIGURE, DRAWN), code(CLAIMED, "1"))),
    Bad("one exercise", "exercises", "1 exercises", without(TASK_2, EXERCISE_2, CHECK_2)),
    Bad("no stars", "exercises", "the heading must be", replace(TASK, "★☆☆", "")),
    Bad("no minutes", "exercises", "the heading must be", replace(TASK, " 5 min", "")),
    Bad("number", "exercises", "### Exercise 2", replace(TASK_2, "Exercise 2", "Exercise 3")),
    Bad("no hint", "exercises", "1 needs <details>", replace(TASK, "Sum and count.", "")),
    Bad("no docstring", "exercises", "with docstring", replace(EXERCISE, DOCSTRING, "")),
    Bad("no solution", "exercises", "and solution", replace(EXERCISE, INSIDE, "")),
    Bad("no check", "exercises", "2 has no check", without(CHECK_2)),
    Bad("check alone", "exercises", "follows no exercise", moved(LEARNED, CHECK_2)),
    Bad("shown", "exercises", "a solution outside", append("# BEGIN SOLUTION", BY_HAND)),
    Bad("checks nothing", "checks", "uses nothing that", code(CHECK, "assert 1, 'no'\nprint(1)")),
    Bad("says nothing", "checks", "say what is wrong", append("assert found", CHECK)),
    Bad("cannot fail", "checks", "say what is wrong", code(CHECK, f"print({MEANING})")),
    Bad("silent", "checks", "print a line", replace(CHECK_2, "print", "str")),
    Bad("uses an answer", "apart", "a cell uses mean_of", append(MEANING, LAST)),
]
