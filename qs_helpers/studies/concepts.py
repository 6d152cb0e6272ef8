"""Notebook 02. Features of a concept: found on some texts, judged on others, against controls."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from ..evidence.stats import Estimate, auroc
from ..forward import read_texts
from ..scoring import firing_gap

CONTROLS = 20


class ConceptSearch(NamedTuple):
    """`ranked`: best features first; `controls`: one row a draw; `length`: AUROC of text length.

    Columns of `ranked`: layer, feature, positive and negative (share of texts in which it fires),
    difference, effect (Cohen's h), n, and on the held-out texts value, low, high (AUROC) and
    difference_held_out. Columns of `controls`: control ("shuffled labels" or "random live
    feature"), draw, layer, feature, value (held-out AUROC).
    """

    ranked: pd.DataFrame
    controls: pd.DataFrame
    length: Estimate


def concept_search(scope, found, held_out, layers=None, top=20, seed=0) -> ConceptSearch:
    """Features that fire in more of the positive texts than of the negative ones.

    found, held_out: (positive texts, negative texts), lists of strings. Features of `layers`
    (None: all) are ranked on `found`: a feature fires in a text if it is in the TopK of a token
    that is no sink. The AUROC of its strongest activation in a text is taken on `held_out`.
    Controls are judged in the same way: the best feature for shuffled labels, on shuffled labels,
    and random features that fire at all, 20 of each. ValueError where a list has fewer
    than two texts.
    """
    for name, texts in (("found", found), ("held_out", held_out)):
        if len(texts) != 2 or min(map(len, texts)) < 2:
            raise ValueError(f"{name}: give two lists (positive, negative) of two texts or more")
    labels = [np.repeat([True, False], [len(pos), len(neg)]) for pos, neg in (found, held_out)]
    sides = [read_texts(scope, [*pos, *neg], layers, ["peak"]) for pos, neg in (found, held_out)]
    train = {layer: readings.peak > 0 for layer, readings in sides[0].items()}
    test = {layer: readings.peak for layer, readings in sides[1].items()}

    rows = []
    for layer, feature in _best(train, labels[0], top):
        fires = train[layer][:, feature]
        pos, neg = fires[labels[0]].mean(), fires[~labels[0]].mean()
        scores = test[layer][:, feature]
        gap = (scores[labels[1]] > 0).mean() - (scores[~labels[1]] > 0).mean()
        effect = 2 * np.arcsin(np.sqrt(pos)) - 2 * np.arcsin(np.sqrt(neg))
        rows.append(
            {"layer": layer, "feature": feature, "positive": pos, "negative": neg}
            | {"difference": pos - neg, "effect": effect, "difference_held_out": gap}
            | auroc(scores, labels[1], seed)._asdict()
        )
    tokens = scope.ids([*held_out[0], *held_out[1]])
    length = auroc(np.array([len(ids) for ids in tokens]), labels[1], seed)
    return ConceptSearch(pd.DataFrame(rows), _controls(train, test, labels, seed), length)


def _best(fires: dict[int, np.ndarray], label: np.ndarray, top: int) -> list[tuple[int, int]]:
    """(layer, feature) of the largest firing-rate differences; ties by layer, then feature."""
    gaps = np.stack([firing_gap(f, label) for f in fires.values()])
    order = np.argsort(-gaps, axis=None, kind="stable")[:top]
    places = zip(*np.unravel_index(order, gaps.shape), strict=True)
    return [(list(fires)[row], int(feature)) for row, feature in places]


def _controls(train, test, labels, seed: int) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    live = [(layer, f) for layer, x in train.items() for f in x.any(0).nonzero()[0]]
    for draw in range(CONTROLS):
        shuffled = [rng.permutation(label) for label in labels]
        best = _best(train, shuffled[0], 1)[0]
        random = live[rng.integers(len(live))]
        trials = ("shuffled labels", best, shuffled[1]), ("random live feature", random, labels[1])
        for control, (layer, feature), label in trials:
            value = roc_auc_score(label, test[layer][:, feature])
            rows.append((control, draw, layer, int(feature), value))
    return pd.DataFrame(rows, columns=["control", "draw", "layer", "feature", "value"])
