"""The answer at the top of a notebook: what a run concluded, and how it is shown."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from qs_helpers.evidence import answer
from qs_helpers.evidence.figures import save_figure


def concluded(run, text="It is 3 of 4."):
    save_figure(plt.figure(), "hero", "A picture of 3 of 4.", pd.DataFrame({"x": [1]}))
    answer.conclude(text, "hero")
    return json.loads((run.folder / "results.json").read_text("utf-8"))


def test_the_answer_is_recorded_and_shown_with_its_hero(run):
    assert concluded(run)["answer"] == {"text": "It is 3 of 4.", "hero": "hero"}
    (words, _), (image, about) = answer.shown(run.folder / "results.json", run.folder / "figures")
    assert words["text/markdown"].startswith("> **Answer.** It is 3 of 4.\n>\n> *Measured: ")
    assert words["text/plain"].startswith("Answer. It is 3 of 4.\n")
    assert "preset tiny: a test bed, not a finding about Qwen." in words["text/plain"]
    assert image["image/png"] and about == {"image/png": {"alt": "A picture of 3 of 4."}}


def test_lines_of_an_answer_are_joined(run):
    assert concluded(run, "It is 3\n  of 4.")["answer"]["text"] == "It is 3 of 4."


@pytest.mark.parametrize(
    ("text", "hero", "message"),
    [
        (" ", "hero", "needs a sentence"),
        ("It is.", "villain", "hero 'villain' was not saved: hero"),
    ],
)
def test_an_answer_without_words_or_picture_is_refused(run, text, hero, message):
    concluded(run)
    with pytest.raises(ValueError, match=message):
        answer.conclude(text, hero)


def test_before_a_run_there_is_no_answer(tmp_path):
    ((words, _),) = answer.shown(tmp_path / "results.json", tmp_path)
    assert words["text/plain"].startswith("No answer yet")


def test_a_hero_that_is_gone_leaves_the_words(run, tmp_path):
    concluded(run)
    ((words, _),) = answer.shown(run.folder / "results.json", tmp_path)
    assert "3 of 4" in words["text/markdown"]
