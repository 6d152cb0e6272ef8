"""Intervals for what is measured, and tests of it."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest, permutation_test

DRAWS = 2000
AREA_DRAWS = 1000


class Estimate(NamedTuple):
    """A measured value, its 95 % interval and n. `interval` is what `claim` takes."""

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


def _bootstrapped(value, drawn, n: int, method: str = "linear") -> Estimate:
    """A value with the percentile interval of its bootstrap draws [draws]."""
    low, high = np.quantile(drawn, [0.025, 0.975], method=method)
    return Estimate(float(value), float(low), float(high), n)


def share(hits: int, n: int) -> Estimate:
    """hits out of n independent trials, with the Wilson score interval (as scipy computes it)."""
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"share of {hits} hits in {n} trials: give 0 <= hits <= n and n >= 1")
    interval = binomtest(int(hits), int(n)).proportion_ci(method="wilson")
    return Estimate(hits / n, interval.low, interval.high, int(n))


def ratio(top, bottom, units=None, seed: int = 0) -> Estimate:
    """sum(top) / sum(bottom) with a percentile bootstrap interval.

    top, bottom: numbers [samples]. units: int [samples], which text (or prompt) each sample
    belongs to; whole units are drawn, since tokens of one text are not independent. n counts the
    units. ValueError if the bottom sums to 0 or there are fewer than two units.
    """
    top, bottom = _column(top).double(), _column(bottom).double()
    units = torch.arange(len(top)) if units is None else _column(units)
    if not len(top) == len(bottom) == len(units):
        raise ValueError(
            f"ratio got {len(top)}, {len(bottom)} and {len(units)} numbers; give as many of each"
        )
    if bottom.sum() == 0:
        raise ValueError("ratio: the bottom sums to 0, so there is nothing to compare with")
    names, place = units.unique(return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"ratio: {len(names)} unit gives no interval; give at least two")
    sums = torch.zeros(2, len(names), dtype=torch.float64)
    sums.index_add_(1, place, torch.stack([top, bottom]))
    generator = torch.Generator().manual_seed(seed)
    drawn = sums[:, torch.randint(len(names), (DRAWS, len(names)), generator=generator)].sum(-1)
    drawn = drawn[:, drawn[1] != 0]
    return _bootstrapped(top.sum() / bottom.sum(), drawn[0] / drawn[1], len(names))


def mean(values, units=None, seed: int = 0) -> Estimate:
    """The mean of values [samples], bootstrapped over units as in `ratio`."""
    values = _column(values).double()
    return ratio(values, torch.ones_like(values), units, seed)


def difference(first, second, units=None, seed: int = 0) -> Estimate:
    """The mean of first - second, pair by pair, bootstrapped over units (say prompts)."""
    first, second = _column(first).double(), _column(second).double()
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values do not make pairs")
    return mean(first - second, units, seed)


def sign_flip_p(differences, seed: int = 0) -> float:
    """One-sided p-value of a positive mean of paired differences, by flipping their signs.

    scipy's permutation test with 9,999 draws (all of them where there are fewer), so never 0.
    """
    values, rng = _column(differences).double().numpy(), np.random.default_rng(seed)
    how = {"permutation_type": "samples", "alternative": "greater", "n_resamples": 9999}
    return float(permutation_test((values,), np.mean, vectorized=True, rng=rng, **how).pvalue)


def rank_p(value: float, controls) -> float:
    """(1 + controls that are as large) / (1 + controls): the p-value of a rank among controls."""
    controls = _column(controls).double()
    if not len(controls):
        raise ValueError("rank_p needs at least one control")
    return (1 + int((controls >= value).sum())) / (1 + len(controls))


def holm(p_values) -> np.ndarray:
    """p-values corrected for all tests of a family at once (Holm 1979), in the given order."""
    p = np.asarray(p_values, float)
    order = p.argsort(kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return steps[order.argsort()]


def crossing(doses, outcomes, level: float, falling: bool = False, seed: int = 0) -> Estimate:
    """The first dose at which the mean outcome reaches a level, interpolated between doses.

    doses: rising numbers [doses]; outcomes [doses, prompts]: the same prompts at every dose.
    `falling`: the first dose at which the mean has fallen to the level. The interval is a
    percentile bootstrap over prompts. inf where the level is not reached, so the interval may end
    there.
    """
    doses = np.asarray(doses, float)
    outcomes = np.asarray(outcomes, float) * (-1 if falling else 1)
    level = -level if falling else level
    if outcomes.shape[:1] != doses.shape or outcomes.ndim != 2 or (np.diff(doses) <= 0).any():
        raise ValueError(f"crossing needs rising doses and [doses, prompts], not {outcomes.shape}")
    n = outcomes.shape[1]
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), DRAWS) / n
    curves = np.vstack([outcomes.mean(1), weights @ outcomes.T])
    above = curves >= level - 1e-12
    rows, at = np.arange(len(curves)), above.argmax(1)
    before = np.maximum(at - 1, 0)  # at the first dose the same, so that the dose itself is found
    low, high = curves[rows, before], curves[rows, at]
    part = np.divide(level - low, high - low, out=np.ones_like(low), where=high > low).clip(0, 1)
    found = np.where(above.any(1), doses[before] * (1 - part) + doses[at] * part, np.inf)
    return _bootstrapped(found[0], found[1:], n, "inverted_cdf")


def _column(values) -> torch.Tensor:
    """Numbers as a flat tensor on the CPU; arrays of pandas are copied, they cannot be written."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().flatten()
    return torch.tensor(np.asarray(values)).flatten()


def auroc(scores, positive, seed: int = 0) -> Estimate:
    """Area under the ROC curve of scores [n] for labels [n], ties counted half.

    The interval is a percentile bootstrap: positive and negative samples drawn separately.
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    if positive.all() or not positive.any():
        raise ValueError("auroc needs positive and negative samples; one kind is missing")
    pos, neg = scores[positive], scores[~positive]
    wins = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
    rng = np.random.default_rng(seed)
    # How often each sample is drawn; an area is then a weighted mean of the wins.
    draws = [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), AREA_DRAWS) for x in (pos, neg)]
    areas = np.einsum("dp,pn,dn->d", *(draws[0], wins, draws[1]), optimize=True) / wins.size
    return _bootstrapped(wins.mean(), areas, len(scores))
