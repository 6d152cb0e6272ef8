"""Figures of steering show the points that they are given."""

import pandas as pd

from qs_helpers.views import steered


def test_figures_show_the_points_they_are_given():
    marks = [
        ("a", "random direction", 0.1),
        ("a", "matched feature 3", 0.3),
        ("b", "random direction", 0.2),
    ]
    rows = pd.DataFrame({"edit": ["a", "b"], "strength": [0.4, 1.0], "value": [0.5, 0.9]})
    rows = rows.assign(low=rows.value - 0.1, high=rows.value + 0.1)
    fig = steered.causal(rows, pd.DataFrame(marks, columns=["edit", "control", "value"]), "fr")
    drawn = {
        (round(float(x), 2), line.get_marker())
        for line in fig.axes[0].lines
        for x in line.get_xdata()
    }
    assert {(0.1, "|"), (0.3, "x"), (0.2, "|"), (0.5, "o"), (0.9, "o")} <= drawn
    table = pd.DataFrame([[0.1, 0.7], [0.2, 0.3]], [0.5, 1.0], [2, 4])
    fig = steered.choices({"fr": table}, {"fr": (4, 0.5)})
    (square,) = fig.axes[0].patches
    assert square.get_xy() == (0.5, -0.5)
    assert [text.get_text() for text in fig.axes[0].texts] == ["0.10", "0.70", "0.20", "0.30"]
    texts = pd.DataFrame(
        {"strength": ["+0.4"], "text": ["costs $5\nand"], "kind": ["goal, fluent"]}
    )
    shares = pd.DataFrame(
        [
            {"goal": goal, "score": score, "strength": 0.4, "value": 0.5, "low": 0.4, "high": 0.6}
            for goal in ("fr", "random")
            for score in ("reached", "fluently")
        ]
    )
    fig = steered.ladder("Once", texts, shares, "fr", (3, 0.4), 9)
    said = [text.get_text() for text in fig.axes[0].texts]
    assert said[:3] == ["Prompt: Once", "+0.4", "costs ＄5 and"]
    assert said[3:] == [" fr, counts as fluent ", " English, counts as fluent ", " not fluent "]


def test_a_text_of_two_lines_has_no_mark_where_it_breaks():
    texts = pd.DataFrame({"strength": ["0"], "text": ["a word " * 20], "kind": ["goal, fluent"]})
    one = {"goal": "fr", "score": "reached", "strength": 0.4, "value": 0.5, "low": 0.4, "high": 0.6}
    fig = steered.ladder("Once", texts, pd.DataFrame([one]), "fr", (3, 0.4), 9)
    (said,) = (text.get_text() for text in fig.axes[0].texts if "word" in text.get_text())
    assert said.count("\n") == 1 and "□" not in said
