"""Slips into another language as figures, drawn from tables; notebook 05 saves them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..evidence.figures import intervals

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.6"


def by_language(values: Mapping[str, np.ndarray], layer: int):
    """Every feature by its ν, one line a language: the figure and its points."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    colours, points = plt.rcParams["axes.prop_cycle"].by_key()["color"], []
    for number, (lang, row) in enumerate(values.items()):
        order, ranks = np.sort(row)[::-1], np.arange(1, len(row) + 1)
        ax.plot(ranks, order, color=colours[number % len(colours)], lw=1.5, label=lang)
        keep = np.unique(np.geomspace(1, len(order), 200).astype(int)) - 1
        points.append(pd.DataFrame({"language": lang, "rank": ranks[keep], "value": order[keep]}))
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set(xscale="log", xlabel="features, by their ν for the language (log scale)")
    ax.set_ylabel("ν, in median norms")
    ax.set_title(f"Every feature of layer {layer}, by language", loc="left")
    ax.legend(fontsize=8, ncols=5)
    return fig, pd.concat(points)


def ramp(rows: pd.DataFrame, n: int, layer: int):
    """Pre-activations before slips and at matched places, and how well they are told apart."""
    fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.2))
    by_kind = rows.groupby("features", sort=False)
    for number, (kind, line) in enumerate(by_kind):
        colour, x = (BLUE, ORANGE)[number], -line.lead
        axes[0].plot(x, line.slip, "-o", color=colour, label=f"{kind}: before a slip")
        axes[0].plot(x, line.matched, "--o", color=colour, mfc="white", label="at a matched place")
        intervals(axes[1], x + 0.08 * (number - 0.5), line, color=colour, fmt="-o", label=kind)
    axes[1].axhline(0.5, color="0.5", ls=":")
    axes[0].set(ylabel="mean pre-activation", title=f"Before {n} slips, layer {layer}")
    axes[1].set(ylabel="AUROC, slip or matched place", title="Can they be told apart?", ylim=(0, 1))
    for ax in axes:
        ax.set(xlabel="tokens to the slip (0: the slip)")
        ax.set_xticks(range(-int(rows.lead.max()), 1))
        ax.legend(fontsize=7)
    return fig


def trade_off(points: pd.DataFrame, controls: pd.DataFrame, half: float, best: str):
    """Slips against price. points: index arm; value, low, high, price, kept (share of answers in
    English when asked). NaN as price: none can be given; inf: at the top. controls: value, price.
    """
    priced = points[points.price.notna()].sort_values("price")
    finite = [*priced.price[np.isfinite(priced.price)], *controls.price, 0.02]
    # Most prices are small and some are huge: linear up to about 2 %, logarithmic beyond.
    roof, floor = _squeezed(max(finite)) + 0.7, _squeezed(min(finite)) - 1.5
    fig, ax = plt.subplots(figsize=(7.6, 4.4))
    ax.axhspan(floor, _squeezed(0.02), color="0.95", zorder=0)
    ax.axvline(half, color="0.6", ls=":")
    ax.plot(controls.value, _squeezed(controls.price), "x", color=GREY, ms=5, zorder=1)
    taken = []
    for name, one in priced.iterrows():
        sure = np.isfinite(one.price)
        y = _squeezed(one.price) if sure else roof
        colour = {"unedited": "black", "logit mask": ORANGE}.get(name, BLUE)
        look = {"fmt": "o", "ms": 9 if name == best else 6, "color": colour, "lw": 0.8}
        look |= {"capsize": 2, "mfc": colour if one.kept >= 0.5 else "white"}
        ax.errorbar(one.value, y, xerr=[[one.value - one.low], [one.high - one.value]], **look)
        at = y + 0.05 * (roof - floor) * 0.4
        while any(abs(at - other) < 0.05 * (roof - floor) for other in taken):
            at += 0.005 * (roof - floor)
        taken.append(at)
        text = name if sure else f"{name} (English impossible: ∞)"
        ax.annotate(text, (one.value, y), (one.value + 0.006, at), size=8, color=colour)
    for name, one in points[points.price.isna()].iterrows():
        y = floor + 0.7
        ax.plot(one.value, y, "^", color=GREEN)
        ax.annotate(
            f"{name} (price not measured)",
            (one.value, y),
            xytext=(6, -3),
            textcoords="offset points",
            size=8,
            color=GREEN,
        )
    ax.text(
        0.995,
        0.015,
        "shaded: at most 2 %; ×: random features; hollow: English is lost",
        transform=ax.transAxes,
        ha="right",
        size=7,
        color="0.35",
    )
    ticks = [t for t in (-0.01, 0, 0.01, 0.02, 0.05, 0.2, 1, 5, 20) if t <= max(finite)]
    ax.set_yticks([_squeezed(t) for t in ticks], [f"{100 * t:g} %" for t in ticks])
    ax.set(ylim=(floor, max(roof + 0.3, *(at + 0.2 for at in taken))), xlim=(-0.02, None))
    ax.set(xlabel="texts that slip (dotted: half of the unedited rate)")
    ax.set_ylabel("extra surprise of real text")
    ax.set_title("Left is fewer slips, down is cheaper", loc="left")
    return fig


def _squeezed(price):
    return np.arcsinh(np.asarray(price, float) / 0.01)


def fine_tuned(rows: pd.DataFrame, before: float):
    """Slips and held-out loss by kind of fine-tuning. rows: kind, seed, value, held-out."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
    kinds = list(rows.kind.unique())
    for column, ax in zip(("value", "held-out"), axes, strict=True):
        for _, line in rows.groupby("seed"):
            ax.plot(line[column], range(len(line)), "-", color="0.88", lw=0.8, zorder=0)
        for y, kind in enumerate(kinds):
            some, colour = rows[rows.kind == kind][column], BLUE if kind == "SASFT" else "0.35"
            ax.plot(some, np.full(len(some), y), "o", ms=4, color=colour, alpha=0.6)
            ax.plot(some.mean(), y, "|", ms=16, mew=2, color=colour)
    axes[0].axvline(before, color="0.5", ls=":")
    axes[0].set_yticks(range(len(kinds)), kinds)
    axes[0].set_ylim(len(kinds) - 0.5, -0.5)
    axes[0].set(xlabel="texts that slip (dotted: before)", xlim=(0, None))
    axes[1].set(xlabel="cross-entropy of held-out text, nats")
    axes[0].set_title("Fine-tuned; a line joins one seed", loc="left")
    return fig


def both_ways(bars: pd.DataFrame, draws: Mapping[str, np.ndarray], layer: int):
    """Texts that loop, by arm, with the shares under random features: the figure and its points."""
    fig, ax = plt.subplots(figsize=(6, 2.8))
    more = []
    for x, arm in enumerate(bars.arm):
        values = draws.get(arm, np.empty(0))
        ax.plot(np.full(len(values), x + 0.15), values, "x", color=GREY, ms=5)
        more.append(pd.DataFrame({"arm": arm, "value": values, "control": "random features"}))
    intervals(ax, range(len(bars)), bars, color=BLUE)
    ax.set_xticks(range(len(bars)), bars.arm)
    ax.set(xlim=(-0.5, len(bars) - 0.5), ylim=(-0.02, None), ylabel="greedy texts that loop")
    ax.set_title(f"Four repetition features, layer {layer} (×: random ones)", loc="left", size=10)
    points = pd.concat([bars.assign(control=""), *(part for part in more if len(part))])
    return fig, points[["control", "arm", "value", "low", "high"]]


def by_seed(rows: pd.DataFrame, now: int):
    """What an edit leaves of the slips, one line a seed. rows: seed, arm, value, low, high,
    verdict; `now` is the seed of this run."""
    fig, ax = plt.subplots(figsize=(7, 0.9 + 0.4 * len(rows)))
    for y, one in enumerate(rows.itertuples()):
        colour = BLUE if one.seed == now else "0.35"
        reach = [[one.value - one.low], [one.high - one.value]]
        ax.errorbar(one.value, y, xerr=reach, fmt="o", ms=5, capsize=2, color=colour)
    ax.axvline(0.5, color="0.5", ls=":")
    names = [f"seed {one.seed}: {one.arm}\n{one.verdict}" for one in rows.itertuples()]
    ax.set_yticks(range(len(rows)), names, size=7)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set(xlim=(0, None), xlabel="share of the slips that is left (dotted: half)")
    ax.set_title("What the best arm leaves, by seed", loc="left")
    return fig


def with_other_seeds(own: dict, made_by, path: Path) -> pd.DataFrame:
    """One row a seed, in order: `own`, with its "seed" and "value", and those of an earlier table
    that have a value and were made by the same. made_by: settings and weights, as a JSON has them.

    A run without a value is alone: what others found is nothing to set beside it.
    """
    digest = hashlib.sha256(json.dumps(made_by, default=str).encode()).hexdigest()[:16]
    own, then = own | {"made by": digest}, pd.DataFrame(columns=["seed", "value", "made by"])
    if path.is_file() and "value" in own:
        then = pd.read_csv(path)
        then = then.dropna(subset="value") if "value" in then else then[:0]
    then = then[(then["made by"] == digest) & (then.seed != own["seed"])].to_dict("records")
    return pd.DataFrame([own, *then]).sort_values("seed", ignore_index=True)
