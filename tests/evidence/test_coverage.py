"""Do the intervals hold what they promise? By simulation, beside what else one might have taken.

Two targets in every cell: the interval holds the truth in at least 93 of 100 runs, and its median
width is at most 1.5 times that of the narrowest named method that is valid in the same cell (that
holds the truth in at least 93 of 100 of the same runs). MISSES names every cell that misses one,
with what it reaches: a known miss that gets worse fails, and so does one that is no longer there.

Monte Carlo error: a cell is a miss where the share of DRAWS runs that hold the truth is below .93
by more than it would be, once in a hundred, for a coverage of .93 exactly. The seeds are fixed.
"""

import zlib
from itertools import product

import numpy as np
import pytest
from scipy.stats import beta, norm, t

from qs_helpers.evidence import stats

DRAWS, SLOW_DRAWS, TARGET, WIDER = 2500, 1000, 0.93, 1.5
Z = norm.isf(0.025)
RATES = (0.5, 0.9, 0.98)


def slack(draws: int) -> float:
    """By how much an observed coverage may fall below the target."""
    return norm.isf(0.01) * (TARGET * (1 - TARGET) / draws) ** 0.5


# ---- what is drawn: yes and no, [draws, first factor, second factor or samples of a group]


def one_factor(rng, rate, groups, each, icc, draws):
    """Beta-binomial: the correlation of two samples of a group is icc."""
    p = np.full((draws, groups), rate)
    if icc:
        spread = (1 - icc) / icc
        p = rng.beta(rate * spread, (1 - rate) * spread, (draws, groups))
    return rng.random((draws, groups, each)) < p[:, :, None]


def two_factors(rng, rate, rows, columns, shares, draws):
    """Threshold of a normal variable with shares of its variance in rows and columns."""
    first, second = shares
    x = first**0.5 * rng.standard_normal((draws, rows, 1))
    x = x + second**0.5 * rng.standard_normal((draws, 1, columns))
    x = x + (1 - first - second) ** 0.5 * rng.standard_normal((draws, rows, columns))
    return x < norm.ppf(rate)


CROSSED = {"both": (0.3, 0.3), "one": (0.3, 0.0), "none": (0.0, 0.0)}
ONE = list(product(RATES, (10, 20, 50), [(1, 0), (4, 0), (4, 0.1), (4, 0.3), (10, 0.1), (10, 0.5)]))
TWO = list(product(RATES, [(10, 10), (20, 20), (50, 50), (20, 10)], CROSSED))


def cells() -> dict[str, tuple]:
    """Name of each cell of the grid of shares to what draws it."""
    found = {
        f"{rate} of {groups}x{each}, icc {icc}": (one_factor, rate, groups, each, icc)
        for rate, groups, (each, icc) in ONE
    }
    for rate, (rows, columns), kind in TWO:
        name = f"{rate} of {rows}|{columns}, {kind}"
        found[name] = (two_factors, rate, rows, columns, CROSSED[kind])
    return found


# ---- the named methods, for all draws at once


def wilson(p, n, z):
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def clopper_pearson(p, n):
    hits, misses = p * n, (1 - p) * n
    with np.errstate(invalid="ignore"):
        low, high = beta.ppf(0.025, hits, misses + 1), beta.isf(0.025, hits + 1, misses)
    return np.where(hits < 1e-9, 0, low), np.where(misses < 1e-9, 1, high)


def variance(hits, crossed):
    """Of the mean, by linearisation over groups; of two factors Cameron, Gelbach and Miller's."""
    n = hits[0].size
    gaps = hits - hits.mean((1, 2), keepdims=True)

    def over(sums):
        size = sums.shape[1]
        return size / (size - 1) * (sums**2).sum(1) / n**2

    first, second = over(gaps.sum(2)), over(gaps.sum(1)) if crossed else 0
    if not crossed:
        return first
    both = over(gaps.reshape(len(gaps), -1))
    return np.maximum(first + second - both, np.maximum(first, second))


def named(hits, crossed, rng):
    """Name of each method to (low, high), [draws] each."""
    p, n = hits.mean((1, 2)), hits[0].size
    axes = (2, 1) if crossed else (2,)
    fewest = min(hits.shape[1:]) if crossed else hits.shape[1]
    edge, spread = (p == 0) | (p == 1), variance(hits, crossed)
    effective = np.clip(
        np.divide(p * (1 - p), spread, out=np.full_like(p, n), where=spread > 0), 1, n
    )
    effective[edge] = n
    t_ = t.isf(0.025, fewest - 1)
    shrunk = np.clip(effective * (Z / t_) ** 2, 1, n)
    out = {
        "Wilson": wilson(p, n, Z),
        "Clopper-Pearson": clopper_pearson(p, n),
        "Wilson, effective n, z": wilson(p, effective, Z),
        "Wilson, effective n, t": wilson(p, effective, t_),
        "Korn-Graubard": clopper_pearson(p, shrunk),
    }
    ways = {"t on means of groups": [], "bootstrap": []}
    for axis in axes:
        means = hits.mean(axis)
        size = means.shape[1]
        half = t.isf(0.025, size - 1) * means.std(1, ddof=1) / size**0.5
        ways["t on means of groups"].append((p - half, p + half))
        weights = rng.multinomial(size, np.full(size, 1 / size), 400) / size
        ways["bootstrap"].append(np.quantile(means @ weights.T, [0.025, 0.975], axis=1))
    for name, found in ways.items():
        wide = np.argmax([high - low for low, high in found], axis=0)
        low, high = np.swapaxes(np.array([(lo, hi) for lo, hi in found]), 0, 1)
        at = np.arange(len(p))
        out[name] = low[wide, at], high[wide, at]
    return out


def judged(truth, ours, others):
    """(coverage, width over that of the narrowest valid method, its name)."""

    def held(low, high):
        return np.mean((low - 1e-12 <= truth) & (truth <= high + 1e-12))

    valid = {
        name: np.median(high - low)
        for name, (low, high) in others.items()
        if held(low, high) >= TARGET
    }
    best = min(valid, key=valid.get, default="none valid")
    width = np.median(ours[1] - ours[0])
    return held(*ours), width / valid[best] if valid else 1.0, best


def seed(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def share_cell(name, monkeypatch, draws=DRAWS):
    rng, (draw, *how) = seed(name), cells()[name]
    crossed = draw is two_factors
    hits = draw(rng, *how, draws)
    shape = hits.shape[1:]
    index = np.indices(shape).reshape(2, -1)
    codes = list(index) if crossed else [index[0]]
    if shape[1] == 1:
        codes = [np.arange(shape[0])]
    monkeypatch.setattr(stats, "factors", lambda groups, n: codes)  # labels are read once
    found = [stats.share(row.reshape(-1), "as above") for row in hits]
    ours = np.array([e.low for e in found]), np.array([e.high for e in found])
    return judged(how[0], ours, named(hits.astype(float), crossed, rng))
