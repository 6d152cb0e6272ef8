"""What steering does, as figures drawn from tables; notebook 03 saves them."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..evidence.figures import drawable, intervals

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
TINTS = {"goal, fluent": "#cfe8d8", "English, fluent": "#dbe9f6", "not fluent": "#f7ddcf"}


def lengths(table: pd.DataFrame, strengths: Sequence[float]):
    """Length of the residual after each layer, and strengths that are lengths too. table: index
    layer; value (of the median token), longest."""
    fig, ax = plt.subplots(figsize=(6.4, 3))
    for what, color, fmt in (("value", BLUE, "-o"), ("longest", "0.45", ":^")):
        ax.plot(table.index, table[what], fmt, ms=4, color=color)
        label = "median token" if what == "value" else "longest token"
        ax.text(table.index[0], 1.12 * table[what].iloc[0], label, size=8, color=color)
    for strength in strengths:
        ax.axhline(strength, color=ORANGE, lw=0.8, ls="--")
        ax.text(table.index[-1], 1.1 * strength, f"{strength}", color=ORANGE, size=8, ha="right")
    ax.set(yscale="log", xlabel="layer", ylabel="length of the residual")
    named = ", ".join(map(str, strengths[:-1])) + f" or {strengths[-1]}"
    ax.set_title(f"What a strength of {named} (dashed) meets", loc="left")
    return fig


def choices(tables: Mapping[str, pd.DataFrame], chosen: Mapping[str, tuple[int, float]]):
    """A share for each strength and layer, one map a goal, and a square where the choice fell.
    tables: {goal: index strength, columns layers}; chosen: {goal: (layer, strength)}."""
    size = (2.3 * len(tables) + 1.4, 3.3)
    fig, axes = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False)
    for ax, (goal, table) in zip(axes[0], tables.items(), strict=True):
        ax.imshow(table, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
        for (y, x), share in np.ndenumerate(table.to_numpy()):
            color = "black" if share > 0.5 else "white"
            ax.text(x, y, f"{share:.2f}", ha="center", va="center", size=7, color=color)
        layer, strength = chosen[goal]
        spot = (list(table.columns).index(layer) - 0.5, list(table.index).index(strength) - 0.5)
        ax.add_patch(plt.Rectangle(spot, 1, 1, fill=False, ec=ORANGE, lw=2.5))
        ax.set_xticks(range(len(table.columns)), table.columns)
        ax.set_yticks(range(len(table.index)), [f"{a:g}" for a in table.index])
        ax.set(title=f"en → {goal}", xlabel="layer")
    axes[0][0].set_ylabel("strength (median lengths)")
    title = "Validation prompts continued in fluent text of the goal (square: chosen)"
    fig.suptitle(title, size=10)
    return fig


def ladder(prompt: str, rows: pd.DataFrame, shares: pd.DataFrame, goal: str, chosen, n: int):
    """One prompt at several strengths, a coloured row each, above the curves of n prompts.

    rows: strength, text, kind (of TINTS); shares: goal (or "random"), strength, score ("reached" or
    "fluently"), value, low, high; chosen: layer and strength."""
    fig, (top, ax) = plt.subplots(2, 1, figsize=(8.6, 6.2), height_ratios=[1.4, 1])
    _draw_texts(top, prompt, rows, "concept" if goal == "pairs" else goal)
    layer, strength = chosen
    ax.axvline(strength, color="0.88", lw=8, zorder=0)
    drawn = [
        (goal, "reached", BLUE, "-o", "goal reached"),
        (goal, "fluently", GREEN, "-s", "and counts as fluent"),
        ("random", "reached", "0.72", "--v", "random direction: reached"),
        ("random", "fluently", "0.45", ":^", "random direction: and fluent"),
    ]
    for name, score, color, fmt, label in drawn:
        curve = shares[(shares.goal == name) & (shares.score == score)]
        intervals(ax, curve.strength, curve, fmt=fmt, ms=4, color=color, label=label)
    ax.set(ylim=(-0.03, 1.03), ylabel=f"of {n} test prompts")
    ax.set_xlabel(f"strength at layer {layer}, in median lengths of a residual (grey: chosen)")
    ax.legend(fontsize=8, loc="upper left")
    return fig


def _draw_texts(ax, prompt: str, rows: pd.DataFrame, goal: str) -> None:
    ax.set(xlim=(0, 1), ylim=(len(rows) + 0.5, -1.05))
    ax.axis("off")
    ax.text(0, -0.6, drawable(f"Prompt: {prompt}"), size=10, weight="bold", va="center")
    for y, row in enumerate(rows.itertuples()):
        ax.add_patch(plt.Rectangle((0, y + 0.04), 1, 0.92, fc=TINTS[row.kind], ec="white"))
        ax.text(0.01, y + 0.5, row.strength, size=9, va="center", weight="bold")
        lines = textwrap.wrap(" ".join(row.text.split()) or "(nothing)", 84)[:2]
        ax.text(0.16, y + 0.5, "\n".join(map(drawable, lines)), size=8.5, va="center")
    for x, (kind, tint) in zip((0.16, 0.4, 0.64), TINTS.items(), strict=True):
        label = kind.replace("goal", goal).replace(", ", ", counts as ")
        box = {"facecolor": tint, "edgecolor": "none", "pad": 2}
        ax.text(x, len(rows) + 0.35, f" {label} ", size=8, va="center", bbox=box)


def selection(choice: pd.DataFrame, picked: Mapping[str, int], layer: int):
    """What features respond to against what they do. choice: index feature; contrast, acts;
    picked: {name: feature}, of which those that are not in `choice` are left out."""
    fig, ax = plt.subplots(figsize=(6.4, 3.7))
    ax.plot(choice.contrast, choice.acts, ".", ms=3, color="0.6")
    for (name, f), color in zip(picked.items(), (BLUE, GREEN, ORANGE), strict=False):
        if f not in choice.index:
            continue
        spot = choice.loc[f]
        ax.plot(spot.contrast, spot.acts, "o", ms=9, mfc="none", mew=2, color=color)
        side, gap = ("right", -0.03) if spot.contrast > 0 else ("left", 0.03)
        ax.text(spot.contrast + gap, spot.acts, f"{name}: {f}", ha=side, va="center", color=color)
    ax.axhline(0, color="0.85", lw=0.8, zorder=0)
    ax.set(xlabel="responds: fires in texts of the goal, minus in others (share)")
    ax.set(ylabel="acts: log-odds of the goal's tokens (nats)")
    ax.set_title(f"Features of layer {layer}: what they respond to, and what they do", loc="left")
    return fig


def price_and_place(prices: pd.DataFrame, where_to: pd.DataFrame):
    """KL by place in the text, and hits by the tokens that are edited. prices: of ("direction", or
    a random one), tokens; where_to: where, score (as in `ladder`); both value, low, high."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1), width_ratios=[1.2, 1])
    ours, others = prices[prices.of == "direction"], prices[prices.of != "direction"]
    intervals(left, ours.tokens, ours, fmt="o-", color=BLUE)
    for _, part in others.groupby("of"):
        left.plot(part.tokens, part.value, ".-", color="0.65", lw=0.8)
    left.set(ylabel="KL, nats", xlabel="place of the token in the text", ylim=(0, None))
    left.set_title("Price (grey: five random directions)", size=10, loc="left")
    places = list(where_to["where"].unique())
    at = np.arange(len(places))
    for score, color, mark, shift in (("reached", "0.6", "o", 0.1), ("fluently", GREEN, "s", -0.1)):
        part, look = where_to[where_to.score == score], {"fmt": mark, "ms": 4, "color": color}
        intervals(right, at - shift, part, across=True, label=score, **look)
    right.set_yticks(at, places)
    right.legend(fontsize=8)
    right.invert_yaxis()
    right.set(xlim=(-0.03, 1.03), xlabel="share of test prompts")
    right.set_title("Tokens edited, and strength", size=10, loc="left")
    return fig


def preference(written: pd.DataFrame, forced: pd.DataFrame, layer: int):
    """Insult or praise by strength, as written and as forced. written: of, strength, value, low,
    high; forced: strength, value, low, high."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3))
    for score, color, fmt in (("insult", ORANGE, "-o"), ("praise", BLUE, "-s")):
        line = written[written.of == score]
        intervals(left, line.strength, line, fmt=fmt, ms=4, color=color, label=score)
    intervals(right, forced.strength, forced, fmt="-o", ms=4, color="0.35")
    left.legend(fontsize=8)
    left.set(ylim=(-0.03, 1.03), ylabel="share of texts")
    left.set_title("What is written", size=10)
    right.set(ylabel="insult over praise, nats a token")
    right.set_title("Both ends forced", size=10)
    for ax in (left, right):
        ax.set_xlabel(f"strength at layer {layer}")
    return fig


def causal(rows: pd.DataFrame, marks: pd.DataFrame, goal: str):
    """Each edit, its random directions and its matched features. rows: edit, strength, value, low,
    high; marks: edit, control ("random direction" or a matched feature), value."""
    fig, ax = plt.subplots(figsize=(7, 0.75 * len(rows) + 1.1))
    looks = {True: ("|", 9, "0.55", 0.16), False: ("x", 4, "C1", 0.3)}
    for y, edit in enumerate(rows.edit):
        own = marks[marks.edit == edit]
        for random, part in own.groupby(own.control == "random direction"):
            mark, size, color, down = looks[random]
            ax.plot(part.value, np.full(len(part), y + down), mark, ms=size, color=color)
    intervals(ax, range(len(rows)), rows, across=True, color=BLUE)
    names = [f"{row.edit}\n(strength {row.strength:g})" for row in rows.itertuples()]
    ax.set_yticks(range(len(rows)), names)
    ax.invert_yaxis()
    ax.set(xlim=(-0.03, 1.03), xlabel=f"share of test prompts that reach {goal} in fluent text")
    ax.set_title("Each edit, random directions (|), matched features (×)", size=10, loc="left")
    return fig
