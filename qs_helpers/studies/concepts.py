"""Notebook 02. Features of a concept: found on some texts, judged on others, against controls."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import regex

from ..evidence.stats import Against, Estimate, against, auroc, n_groups
from ..forward import read_texts
from ..scoring import firing_gap
from ..texts import Text

RANDOM = 20
# A letter of a script that puts spaces between words.
LETTER = r"[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]"


class ConceptSearch(NamedTuple):
    """What a search found, and how that stands to its controls.

    Columns of `ranked`, best features first: layer, feature, positive and negative (share of texts
    in which it fires), difference, effect (Cohen's h), on the held-out texts difference_held_out
    and the AUROC: value, low, high, n, groups, family. Columns of `controls`: control ("shuffled
    labels" or "random live feature"), layer, feature, value (held-out AUROC).
    """

    ranked: pd.DataFrame
    controls: pd.DataFrame
    null: Against | None
    """the best feature against all controls; None where the texts are all of one group"""
    length: Estimate
    """AUROC of the length of the text, in tokens"""
    baselines: dict[str, Estimate]
    """AUROC of the best feature minus that of the length, {} where `null` is None"""


def concept_search(
    scope,
    found: tuple[Sequence[Text], Sequence[Text]],
    held_out: tuple[Sequence[Text], Sequence[Text]],
    layers: Sequence[int] | None = None,
    top: int = 20,
    family: int = 1,
    seed: int = 0,
) -> ConceptSearch:
    """Features that fire in more of the positive texts than of the negative ones.

    found, held_out: (positive texts, negative texts). Features of `layers` (None: all) are ranked
    on `found`: a feature fires in a text if it is in the TopK of a token that is no sink. The AUROC
    of its strongest activation in a text is taken on `held_out`. Controls are judged on the same
    texts: 20 random features that fire at all, and the best features for shuffled labels of
    `found`, as many as a claim that is one of `family` needs. ValueError where a list has fewer
    than two texts.
    """
    for name, texts in (("found", found), ("held_out", held_out)):
        if len(texts) != 2 or min(map(len, texts)) < 2:
            raise ValueError(f"{name}: give two lists (positive, negative) of two texts or more")
    labels = [np.repeat([True, False], [len(pos), len(neg)]) for pos, neg in (found, held_out)]
    sides = [[text.text for text in (*pos, *neg)] for pos, neg in (found, held_out)]
    train = read_texts(scope, sides[0], layers, ["peak"])
    fires = {layer: readings.peak > 0 for layer, readings in train.items()}
    test = read_texts(scope, sides[1], layers, ["peak"])
    positive, groups = labels[1], [text.group for text in (*held_out[0], *held_out[1])]

    best = _best(fires, labels[0], top)
    scores = [test[layer].peak[:, feature] for layer, feature in best]
    rows = []
    for (layer, feature), score in zip(best, scores, strict=True):
        pos, neg = (fires[layer][side, feature].mean() for side in (labels[0], ~labels[0]))
        gap = (score[positive] > 0).mean() - (score[~positive] > 0).mean()
        effect = 2 * np.arcsin(np.sqrt(pos)) - 2 * np.arcsin(np.sqrt(neg))
        row = {"layer": layer, "feature": feature, "positive": pos, "negative": neg}
        row |= {"difference": pos - neg, "effect": effect, "difference_held_out": gap}
        rows.append(row | auroc(score, positive, groups, family)._asdict())

    controls = _controls(fires, labels[0], max(RANDOM, 20 * family - 1 - RANDOM), seed)
    others = [test[row.layer].peak[:, row.feature] for row in controls.itertuples()]
    controls["value"] = [auroc(other, positive).value for other in others]
    lengths = np.array([len(ids) for ids in scope.own_ids(sides[1])])
    null, baselines = None, {}
    if n_groups(groups, len(groups)) > 1:
        shared = {"positive": positive, "groups": groups, "family": family, "by": "auroc"}
        null = against(scores[0], others, **shared)
        baselines["length of the text"] = against(scores[0], [lengths], **shared).difference
    length = auroc(lengths, positive, groups)
    return ConceptSearch(pd.DataFrame(rows), controls, null, length, baselines)


def _best(fires: dict[int, np.ndarray], label: np.ndarray, top: int) -> list[tuple[int, int]]:
    """(layer, feature) of the largest firing-rate differences; ties by layer, then feature."""
    gaps = np.stack([firing_gap(f, label) for f in fires.values()])
    order = np.argsort(-gaps, axis=None, kind="stable")[:top]
    places = zip(*np.unravel_index(order, gaps.shape), strict=True)
    return [(list(fires)[row], int(feature)) for row, feature in places]


def _controls(fires: dict[int, np.ndarray], label, shuffles: int, seed: int) -> pd.DataFrame:
    """The best feature for each of some shuffles of the labels, and 20 random live features."""
    rng = np.random.default_rng(seed)
    shuffled = np.stack([rng.permutation(label) for _ in range(shuffles)])
    weights = shuffled / label.sum() - ~shuffled / (~label).sum()
    gaps = np.stack([weights.astype(np.float32) @ f.astype(np.float32) for f in fires.values()])
    best = [np.unravel_index(gap.argmax(), gap.shape) for gap in gaps.transpose(1, 0, 2)]
    rows = [("shuffled labels", list(fires)[row], int(feature)) for row, feature in best]
    live = [(layer, f) for layer, x in fires.items() for f in x.any(0).nonzero()[0]]
    drawn = rng.choice(len(live), RANDOM, replace=len(live) < RANDOM)
    rows += [("random live feature", live[i][0], int(live[i][1])) for i in drawn]
    return pd.DataFrame(rows, columns=["control", "layer", "feature"])


def two_sides(
    texts: Iterable[Text],
    keep: Callable[[Text], bool],
    n: int,
    alike: Callable[[Text], Hashable] | None = None,
    seed: int = 0,
) -> tuple[list[Text], list[Text]]:
    """At most n texts for which keep(text) holds, and as many others, drawn at random.

    alike: if given, each of the others has the same alike(text) as one of the kept, such as its
    language. What has no partner is left out.
    """
    texts = list(texts)
    others: dict[Hashable, list[Text]] = defaultdict(list)
    kept = []
    for i in np.random.default_rng(seed).permutation(len(texts)):
        if keep(texts[i]):
            kept.append(texts[i])
        else:
            others[alike(texts[i]) if alike else None].append(texts[i])
    pairs = []
    for text in kept:
        same = others[alike(text) if alike else None]
        if same and len(pairs) < n:
            pairs.append((text, same.pop()))
    return [pos for pos, _ in pairs], [neg for _, neg in pairs]


def mentions(words: Iterable[str]) -> Callable[[str], bool]:
    """A function that says whether a text holds one of some words, in any case.

    They must stand there as whole words ("pain" is not in "painter"), but for those of scripts that
    put no spaces between words. A str is one word; "", which would stand everywhere, is none.
    """
    words = [words] if isinstance(words, str) else words
    whole = [rf"(?<!{LETTER}){regex.escape(word)}(?!{LETTER})" for word in words if word]
    pattern = regex.compile("|".join(whole) or r"(?!)", regex.IGNORECASE | regex.V1)
    return lambda text: pattern.search(text) is not None
