"""How good a detector is, with intervals.

Confusion         counts of right and wrong flags; confusion counts them
f1_score          F1 of flags; f1, the same with its interval
best_threshold    the threshold with the best F1 on validation texts
stratified_auroc  AUROC among texts of like length
"""

from typing import NamedTuple

import numpy as np

from .concepts import auroc
from .stats import Estimate

__all__ = ["Confusion", "best_threshold", "confusion", "f1", "f1_score", "stratified_auroc"]

DRAWS = 4000


class Confusion(NamedTuple):
    """Counts of texts."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


def confusion(flagged, toxic) -> Confusion:
    """Counts for flags [texts] and labels [texts], both bool."""
    flagged, toxic = np.asarray(flagged, bool), np.asarray(toxic, bool)
    if flagged.shape != toxic.shape:
        raise ValueError(f"{flagged.shape} flags for {toxic.shape} labels")
    pairs = ((True, True), (True, False), (False, True), (False, False))
    return Confusion(*(int(((flagged == f) & (toxic == t)).sum()) for f, t in pairs))


def f1_score(flagged, toxic) -> float:
    """2 TP / (2 TP + FP + FN) for the toxic class; 0 where nothing is flagged or toxic."""
    tp, fp, fn, _ = confusion(flagged, toxic)
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def f1(flagged, toxic, seed: int = 0) -> Estimate:
    """F1 with a 95 % interval from Jeffreys posteriors of the rates of true and false positives
    (in the manner of Goutte and Gaussier 2005), so that a perfect score is not a certain one."""
    tp, fp, fn, tn = confusion(flagged, toxic)
    rng = np.random.default_rng(seed)
    hits = (tp + fn) * rng.beta(tp + 0.5, fn + 0.5, DRAWS)
    wrong = (fp + tn) * rng.beta(fp + 0.5, tn + 0.5, DRAWS)
    low, high = np.quantile(2 * hits / (hits + wrong + tp + fn), [0.025, 0.975])
    value = f1_score(flagged, toxic)
    return Estimate(value, float(min(low, value)), float(max(high, value)), tp + fp + fn + tn)


def best_threshold(scores, toxic) -> float:
    """The threshold t for which flags `scores > t` have the best F1; the lowest such t.

    Candidates lie halfway between neighbouring scores, and below all of them. Use validation
    texts.
    """
    scores, toxic = np.asarray(scores, float), np.asarray(toxic, bool)
    if toxic.all() or not toxic.any():
        raise ValueError("a threshold needs toxic and clean texts; one kind is missing")
    values = np.unique(scores)
    cuts = np.concatenate([[np.nextafter(values[0], -np.inf)], (values[:-1] + values[1:]) / 2])
    order = np.argsort(scores)
    behind = np.searchsorted(scores[order], cuts, side="right")  # texts that are not flagged
    so_far = np.concatenate([[0], toxic[order].cumsum()])
    tp = toxic.sum() - so_far[behind]
    flagged = len(scores) - behind
    return float(cuts[np.argmax(2 * tp / (flagged + toxic.sum()))])


def stratified_auroc(scores, toxic, lengths, bins: int = 4, seed: int = 0) -> Estimate:
    """AUROC among texts of like length: the mean over quantile bins of `lengths`, weighted by
    the pairs of a toxic and a clean text in each. The interval
    adds up the bootstrap intervals of the bins, which are independent.

    ValueError where no bin has both labels.
    """
    scores, toxic = np.asarray(scores, float), np.asarray(toxic, bool)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, lengths, side="left")
    parts, weights = [], []
    for i in np.unique(place):
        here = place == i
        pairs = toxic[here].sum() * (~toxic[here]).sum()
        if pairs:
            parts.append(auroc(scores[here], toxic[here], seed + int(i)))
            weights.append(pairs)
    if not parts:
        raise ValueError("no bin of lengths has toxic and clean texts; use fewer bins")
    share = np.array(weights) / sum(weights)
    value = float(share @ [p.value for p in parts])
    # Bins are independent: variances of the weighted mean add up.
    half = 0.5 * np.array([p.high - p.low for p in parts])
    spread = float(np.sqrt(((share * half) ** 2).sum()))
    return Estimate(value, max(0.0, value - spread), min(1.0, value + spread), len(scores))
