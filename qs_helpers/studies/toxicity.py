"""Notebook 04. Detection by features, five rivals, and how to compare them.

The rule is that of the Qwen-Scope report (2026, section 5.1): h = 1 if a feature is in the TopK of
any token of a text (sinks left out), features ranked by P(h | toxic) - P(h | clean) on discovery
texts, a text is called toxic if any of the first K features fires.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..evidence.stats import Against, Estimate, against, auroc, n_groups, yes_or_no
from ..forward import Readings, listed
from ..scoring import firing_gap
from ..writing import UNITS

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of regularisation: scikit-learn's C
N_WORDS = 100


def rank(fires: np.ndarray, toxic: np.ndarray) -> np.ndarray:
    """All features, best first: P(fires | toxic) - P(fires | clean); ties by number.

    fires: bool [texts, d_sae]; toxic: bool [texts]. ValueError if a label is missing.
    """
    toxic = yes_or_no("toxic", toxic)
    if toxic.all() or not toxic.any():
        raise ValueError("toxic and clean texts are needed to rank features; one kind is missing")
    return np.argsort(-firing_gap(fires, toxic), kind="stable")


class Rule(NamedTuple):
    """Fire if any feature (layer, feature) has more than `threshold`, read by `pooling`."""

    features: tuple[tuple[int, int], ...]
    pooling: str = "peak"
    threshold: float = 0.0


def fit_rule(readings: Mapping[int, Readings], toxic, layer: int, k: int) -> Rule:
    """The OR of the k best features of a layer on discovery texts."""
    best = rank(readings[layer].peak > 0, toxic)[:k]
    return Rule(tuple((layer, int(f)) for f in best))


def strength(rule: Rule, readings: Mapping[int, Readings]) -> np.ndarray:
    """The largest value of a rule's features in each text: float32 [texts]."""
    values = [getattr(readings[layer], rule.pooling)[:, f] for layer, f in rule.features]
    return np.max(values, axis=0)


def flags(rule: Rule, readings: Mapping[int, Readings]) -> np.ndarray:
    """Which texts a rule calls toxic: bool [texts]."""
    return strength(rule, readings) > rule.threshold


def choose_rule(found, toxic, checked, checked_toxic, k: int = 1) -> Rule:
    """`fit_rule` at the layer with the best F1 on validation texts; ties to the first layer.

    found, toxic: discovery texts, {layer: Readings} and labels; checked, checked_toxic: validation
    texts.
    """
    rules = [fit_rule(found, toxic, layer, k) for layer in found]
    return max(rules, key=lambda rule: f1_score(flags(rule, checked), checked_toxic))


class Detector(NamedTuple):
    """`score` maps texts, or rows of numbers, to float [n]; toxic above the threshold."""

    name: str
    score: Callable[[Any], np.ndarray]
    threshold: float

    def flags(self, inputs) -> np.ndarray:
        return self.score(inputs) > self.threshold


def fit_length(texts: Sequence[str], toxic, checked: Sequence[str], checked_toxic) -> Detector:
    """Characters, longer or shorter being worse, whichever holds on the discovery texts."""
    lengths = np.array([len(text) for text in listed(texts)], float)
    sign = 1.0 if auroc(lengths, toxic).value >= 0.5 else -1.0

    def score(inputs):
        return sign * np.array([len(text) for text in listed(inputs)], float)

    return Detector("length", score, best_threshold(score(checked), checked_toxic))


def fit_words(texts: Sequence[str], toxic, checked: Sequence[str], checked_toxic) -> Detector:
    """The sum of log-odds of the 100 words that most tell toxic from clean texts.

    Words are whole words, or pairs of neighbouring characters in Chinese and Japanese. Log-odds
    are smoothed by one count.
    """
    counts: dict[str, list[int]] = {}  # in clean and in toxic texts
    toxic = yes_or_no("toxic", toxic)
    for text, label in zip(listed(texts), toxic, strict=True):
        for word in _words(text):
            counts.setdefault(word, [0, 0])[int(label)] += 1
    n = np.bincount(np.asarray(toxic, int), minlength=2)
    clean, bad = np.log((np.array([*counts.values()]).T + 1) / (n[:, None] + 2))
    odds = dict(zip(counts, bad - clean, strict=True))
    best = dict(sorted(odds.items(), key=lambda item: -item[1])[:N_WORDS])

    def score(inputs):
        words = map(_words, listed(inputs))
        return np.array([sum(best.get(word, 0.0) for word in of) for of in words])

    return Detector("word list", score, best_threshold(score(checked), checked_toxic))


def _words(text: str) -> set[str]:
    units = UNITS.findall(text.casefold())
    pairs = {a + b for a, b in zip(units, units[1:], strict=False) if len(a) == len(b) == 1}
    return {unit for unit in units if len(unit) > 1} | pairs


def fit_ngrams(texts: Sequence[str], toxic, checked: Sequence[str], checked_toxic) -> Detector:
    """TF-IDF of 1 to 4 characters (scikit-learn's char_wb) and logistic regression."""
    tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    rows, others = tfidf.fit_transform(listed(texts)), tfidf.transform(listed(checked))
    inner = fit_logistic(rows, toxic, others, checked_toxic, scale=False)

    def score(inputs):
        return inner.score(tfidf.transform(listed(inputs)))

    return Detector("char n-grams", score, inner.threshold)


def fit_means(rows: np.ndarray, toxic, checked: np.ndarray, checked_toxic) -> Detector:
    """Diff-of-means of rows [texts, d]: one dot product."""
    rows, toxic = np.asarray(rows, np.float64), yes_or_no("toxic", toxic)
    if toxic.all() or not toxic.any():
        raise ValueError("toxic and clean rows are needed; one kind is missing")
    direction = rows[toxic].mean(0) - rows[~toxic].mean(0)

    def score(inputs):
        return np.asarray(inputs, np.float64) @ direction

    return Detector("diff-of-means", score, best_threshold(score(checked), checked_toxic))


def fit_logistic(rows, toxic, checked, checked_toxic, scale: bool = True) -> Detector:
    """Logistic regression (scikit-learn, L2), C by AUROC on validation rows.

    `scale` brings each column to unit variance on the discovery rows first.
    """

    toxic = yes_or_no("toxic", toxic)

    def fit(strength):
        first = StandardScaler() if scale else "passthrough"
        model = make_pipeline(first, LogisticRegression(C=strength, max_iter=2000))
        return model.fit(rows, toxic)

    models = [fit(strength) for strength in STRENGTHS]
    quality = [auroc(m.decision_function(checked), checked_toxic).value for m in models]
    best = models[int(np.argmax(quality))]
    threshold = best_threshold(best.decision_function(checked), checked_toxic)
    return Detector("logistic regression", best.decision_function, threshold)


def f1_score(flagged, toxic) -> float:
    """2 TP / (2 TP + FP + FN) for the toxic class; 0 where nothing is flagged or toxic.

    flagged, toxic: bool [texts].
    """
    return float(metrics.f1_score(toxic, flagged, zero_division=0))


def in_counts(flagged, toxic) -> str:
    """What a detector flags, in words: "190 of 200 toxic and 12 of 200 clean texts"."""
    flagged, toxic = yes_or_no("flagged", flagged), yes_or_no("toxic", toxic)
    sides = ((flagged[side].sum(), side.sum()) for side in (toxic, ~toxic))
    (hits, positive), (wrong, negative) = sides
    return f"{hits} of {positive} toxic and {wrong} of {negative} clean texts"


def compared(values, rivals, toxic, groups, by: str = "f1", family: int = 1) -> Against:
    """`against` on texts, for a single group too: then the difference has no interval.

    values [texts] and rivals [rivals, texts]: flags for by="f1", scores for by="auroc".
    """
    n = len(values)
    if (count := n_groups(groups, n)) > 1:
        found = against(values, rivals, toxic, groups, family, by)
        gap = found.difference
        # Means of equal numbers differ in the last digit, which must not look like a width.
        value, low, high = (round(x, 12) + 0.0 for x in gap[:3])
        return found._replace(difference=gap._replace(value=value, low=low, high=high))
    toxic = yes_or_no("toxic", toxic)
    score = metrics.roc_auc_score if by == "auroc" else metrics.f1_score
    value, *others = (float(score(toxic, row)) for row in (values, *rivals))
    gap = Estimate(value - float(np.mean(others)), np.nan, np.nan, n, count, family)
    return Against(gap, value, np.array(others))


def best_threshold(scores, toxic) -> float:
    """The threshold t for which flags `scores > t` have the best F1; the lowest such t.

    Candidates lie halfway between neighbouring scores, and below all of them. Use validation
    texts.
    """
    scores, toxic = np.asarray(scores, float), yes_or_no("toxic", toxic)
    if np.isnan(scores).any():
        raise ValueError("a threshold needs numbers, but scores hold nan")
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


def shuffled_at_like_length(scores, lengths, draws: int, seed: int = 0, bins: int = 4):
    """Scores shuffled among the texts of a quantile bin of lengths: [draws, texts].

    What is left in them is what length tells of the scores.
    """
    scores, lengths = np.asarray(scores), np.asarray(lengths)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, lengths, side="left")
    out = np.tile(scores, (draws, 1))
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        for here in (np.flatnonzero(place == i) for i in np.unique(place)):
            out[draw, here] = scores[rng.permutation(here)]
    return out


def word(group: str) -> str:
    """The word of a group "frame|word", "" where a group has no two parts."""
    return group.partition("|")[2]


def beginning(text: str, group: str = "") -> str:
    """A text up to the word that its group names, else its first half."""
    place = text.find(word(group)) if word(group) else -1
    return text[: place if place > 0 else len(text) // 2].strip()


def coverage(fires, order=None) -> np.ndarray:
    """Share of features covered by the first 1, 2, … texts: float64 [texts].

    fires: bool [texts, features]; order: text numbers, else as they come. A feature is covered
    if it fires in one of the texts. ValueError if there is no text or no feature.
    """
    fires = np.asarray(fires, bool)
    if not fires.size:
        raise ValueError(f"coverage of {fires.shape[1]} features by {len(fires)} texts: give both")
    fires = fires if order is None else fires[np.asarray(order, int)]
    return np.logical_or.accumulate(fires, axis=0).mean(1)


def greedy_order(fires) -> np.ndarray:
    """Texts in the order in which each adds most uncovered features: int64 [useful texts].

    Ties go to the earlier text; it ends where no text adds a feature. Greedy set cover reaches at
    least 1 - 1/e of the best coverage of its size (Nemhauser et al. 1978).
    """
    open_, order = np.asarray(fires, bool).copy(), []
    while open_.any():
        best = int(open_.sum(1).argmax())
        order.append(best)
        open_ &= ~open_[best]
    return np.array(order, int)
