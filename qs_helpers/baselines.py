"""Detectors that a feature has to beat, all fitted on discovery and validation texts only.

Detector       a name, a score of texts and a threshold
fit_length     the number of characters
fit_words      words that toxic discovery texts use and clean ones do not
fit_ngrams     logistic regression on TF-IDF of character n-grams
fit_means      the diff-of-means direction, as a probe on the mean residual
fit_logistic   logistic regression on any numbers: residuals, or a few SAE features

Text detectors score strings; probes score rows of numbers. Strengths and thresholds are chosen on
validation texts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .concepts import auroc
from .scores import best_threshold
from .writing import UNITS

__all__ = ["Detector", "fit_length", "fit_logistic", "fit_means", "fit_ngrams", "fit_words"]

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of regularisation: scikit-learn's C
N_WORDS = 100


class Detector(NamedTuple):
    """`score` maps texts, or rows of numbers, to float [n]; toxic above the threshold."""

    name: str
    score: Callable[[Any], np.ndarray]
    threshold: float

    def flags(self, inputs) -> np.ndarray:
        return self.score(inputs) > self.threshold


def fit_length(texts: Sequence[str], toxic, checked: Sequence[str], checked_toxic) -> Detector:
    """Characters, longer or shorter being worse, whichever holds on the discovery texts."""
    lengths = np.array([len(text) for text in texts], float)
    sign = 1.0 if auroc(lengths, toxic).value >= 0.5 else -1.0

    def score(inputs):
        return sign * np.array([len(text) for text in inputs], float)

    return Detector("length", score, best_threshold(score(checked), checked_toxic))


def fit_words(texts: Sequence[str], toxic, checked: Sequence[str], checked_toxic) -> Detector:
    """The sum of log-odds of the 100 words that most tell toxic from clean texts.

    Words are whole words, or pairs of neighbouring characters in Chinese and Japanese. Log-odds
    are smoothed by one count.
    """
    counts: dict[str, list[int]] = {}
    for text, label in zip(texts, toxic, strict=True):
        for word in _words(text):
            counts.setdefault(word, [0, 0])[int(label)] += 1
    n = np.bincount(np.asarray(toxic, int), minlength=2)
    odds = {w: np.log((b + 1) / (n[1] + 2)) - np.log((a + 1) / (n[0] + 2))
            for w, (a, b) in counts.items()}  # fmt: skip
    best = dict(sorted(odds.items(), key=lambda item: -item[1])[:N_WORDS])

    def score(inputs):
        return np.array([sum(best.get(word, 0.0) for word in _words(text)) for text in inputs])

    return Detector("word list", score, best_threshold(score(checked), checked_toxic))


def _words(text: str) -> set[str]:
    units = UNITS.findall(text.casefold())
    pairs = {a + b for a, b in zip(units, units[1:], strict=False) if len(a) == len(b) == 1}
    return {unit for unit in units if len(unit) > 1} | pairs


def fit_ngrams(texts: Sequence[str], toxic, checked: Sequence[str], checked_toxic) -> Detector:
    """TF-IDF of 1 to 4 characters (scikit-learn's char_wb) and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    rows, others = tfidf.fit_transform(texts), tfidf.transform(checked)
    inner = fit_logistic(rows, toxic, others, checked_toxic, scale=False)
    return Detector(
        "char n-grams", lambda inputs: inner.score(tfidf.transform(inputs)), inner.threshold
    )


def fit_means(rows: np.ndarray, toxic, checked: np.ndarray, checked_toxic) -> Detector:
    """Diff-of-means of rows [texts, d]: one dot product."""
    rows, toxic = np.asarray(rows, np.float64), np.asarray(toxic, bool)
    direction = rows[toxic].mean(0) - rows[~toxic].mean(0)

    def score(inputs):
        return np.asarray(inputs, np.float64) @ direction

    return Detector("diff-of-means", score, best_threshold(score(checked), checked_toxic))


def fit_logistic(rows, toxic, checked, checked_toxic, scale: bool = True) -> Detector:
    """Logistic regression (scikit-learn, L2), C by AUROC on validation rows.

    `scale` brings each column to unit variance on the discovery rows first.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(strength):
        steps = [StandardScaler()] if scale else []
        model = make_pipeline(*steps, LogisticRegression(C=strength, max_iter=2000))
        return model.fit(rows, toxic)

    models = [fit(strength) for strength in STRENGTHS]
    quality = [auroc(m.decision_function(checked), checked_toxic).value for m in models]
    best = models[int(np.argmax(quality))]
    threshold = best_threshold(best.decision_function(checked), checked_toxic)
    return Detector("logistic regression", best.decision_function, threshold)
