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

DRAWS, TARGET, WIDER = 2500, 0.93, 1.5
SLOW_DRAWS = {
    "auroc": 1000,
    "f1": 1000,
    "difference": 1000,
    "normal": 400,
    "skewed": 400,
    "mean": 250,
}
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


# ---- AUROC, F1, means and differences


def percentiles(rng, sums, bottoms=None):
    """Bootstrap of sum(sums) / sum(bottoms) over groups, both [groups]."""
    weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), 300)
    bottoms = np.ones_like(sums) if bottoms is None else bottoms
    return np.quantile((weights @ sums) / np.maximum(weights @ bottoms, 1e-9), [0.025, 0.975])


def around(value, spread, factor):
    half = factor * spread**0.5
    return value - half, value + half


def clustered_auroc(rng, distance, groups, each, shared):
    """Binormal scores; `shared` of their variance is that of groups, which hold both labels."""
    scores = shared**0.5 * rng.standard_normal((groups, 1))
    scores = scores + (1 - shared) ** 0.5 * rng.standard_normal((groups, each))
    positive = np.arange(groups * each).reshape(groups, each) % 2 == 0
    scores = (scores + distance * positive).ravel()
    labels = np.repeat(np.arange(groups), each)
    found = stats.auroc(scores, positive.ravel(), labels)
    # Two samples of a pair are mostly of two groups; those of one differ by less.
    wins = stats._wins(scores, positive.ravel())
    parts = np.empty(len(scores))
    parts[positive.ravel()] = (wins.mean(1) - found.value) / positive.sum()
    parts[~positive.ravel()] = (wins.mean(0) - found.value) / (~positive).sum()
    spread = groups / (groups - 1) * (np.bincount(labels, parts) ** 2).sum()
    logit = spread / max(found.value * (1 - found.value), 1e-9) ** 2
    middle = np.log(max(found.value, 1e-9) / max(1 - found.value, 1e-9))
    rng_weights = rng.multinomial(groups, np.full(groups, 1 / groups), 100)[:, labels]
    drawn = stats._areas(scores, positive.ravel(), rng_weights.astype(float))
    others = {
        "DeLong, z": around(found.value, spread, Z),
        "DeLong, t": around(found.value, spread, t.isf(0.025, groups - 1)),
        "DeLong, logit": 1 / (1 + np.exp(-np.array(around(middle, logit, Z)))),
        "bootstrap": np.quantile(drawn, [0.025, 0.975]),
    }
    within = 1 / max(1 - shared, 1e-9) ** 0.5
    pairs = groups * each * each / 4
    same = pairs / (groups * each / 2) ** 2
    truth = (1 - same) * norm.cdf(distance / 2**0.5) + same * norm.cdf(distance * within / 2**0.5)
    return truth, found, others


def clustered_f1(rng, j, groups, each, icc):
    """Flags that are right, with probability j, where something is flagged or positive."""
    p = rng.beta(j * (1 - icc) / icc, (1 - j) * (1 - icc) / icc, groups) if icc else j
    hit = rng.random((each, groups)).T < np.reshape(p, (-1, 1))
    either = rng.random(hit.shape) < 0.6
    either[0, 0] = True
    missed = rng.random(hit.shape) < 0.5
    flagged, positive = either & (hit | ~missed), either & (hit | missed)
    labels = np.repeat(np.arange(groups), each)
    found = stats.f1(flagged.ravel(), positive.ravel(), labels)
    hits, some = (hit & either).sum(1).astype(float), either.sum(1).astype(float)
    share = hits.sum() / some.sum()
    spread = groups / (groups - 1) * ((hits - share * some) ** 2).sum() / some.sum() ** 2
    effective = share * (1 - share) / spread if spread else some.sum()
    others = {
        "J, t": around(share, spread, t.isf(0.025, groups - 1)),
        "J, Wilson": wilson(share, some.sum(), Z),
        "J, Wilson, effective n, z": wilson(share, min(effective, some.sum()), Z),
        "J, bootstrap": percentiles(rng, hits, some),
    }
    others = {name: tuple(2 * x / (1 + x) for x in ends) for name, ends in others.items()}
    return 2 * j / (1 + j), found, others


def of_means(rng, values, found):
    """The usual intervals of a mean of groups [groups, each]."""
    means, size = values.mean(1), len(values)
    spread = means.var(ddof=1) / size
    return {
        "z on means of groups": around(found.value, spread, Z),
        "t on means of groups": around(found.value, spread, t.isf(0.025, size - 1)),
        "bootstrap": percentiles(rng, means),
    }


def clustered_mean(rng, kind, groups, each):
    made = rng.exponential(1, (groups, 1)) if kind == "skewed" else rng.normal(1, 1, (groups, 1))
    values = made + rng.normal(0, 1, (groups, each))
    found = stats.mean(values.ravel(), np.repeat(np.arange(groups), each))
    return 1.0, found, of_means(rng, values, found)


def crossed_mean(rng, rows, columns):
    values = rng.normal(size=(rows, 1)) + rng.normal(size=(1, columns))
    values = values + rng.normal(size=(rows, columns))
    labels = [f"{i}|{j}" for i in range(rows) for j in range(columns)]
    found = stats.mean(values.ravel(), labels)
    others = of_means(rng, values, found) | {
        f"{name}, second": ends for name, ends in of_means(rng, values.T, found).items()
    }
    spread = variance(values[None], True)[0]
    others["both factors, t"] = around(found.value, spread, t.isf(0.025, min(rows, columns) - 1))
    return 0.0, found, others


def clustered_difference(rng, first, second, groups, each):
    """Yes and no against the mean of null draws; half of the spread of both is that of groups."""
    shared = rng.standard_normal((groups, 1)) * 0.5**0.5
    alone = rng.standard_normal((groups, each)) * 0.5**0.5
    hits = shared + alone < norm.ppf(first)
    nulls = rng.random((19, groups, each)) < second
    labels = np.repeat(np.arange(groups), each)
    found = stats.against(hits.ravel(), nulls.reshape(19, -1), None, labels).difference
    return first - second, found, of_means(rng, hits - nulls.mean(0), found)


OTHERS = {
    **{
        f"auroc of {groups}x{each}, distance {distance}, shared {shared}": (
            *(clustered_auroc, distance, groups, each, shared),
        )
        for groups, each in ((10, 4), (20, 4), (50, 4))
        for distance, shared in ((1.0, 0.0), (1.0, 0.5), (2.3, 0.0), (2.3, 0.5))
    },
    **{
        f"f1 of {groups}x5, J {j}, icc {icc}": (clustered_f1, j, groups, 5, icc)
        for groups in (10, 20, 50)
        for j, icc in ((0.5, 0.0), (0.5, 0.3), (0.8, 0.0), (0.8, 0.3), (0.96, 0.1))
    },
    **{
        f"{kind} mean of {groups}x3": (clustered_mean, kind, groups, 3)
        for groups in (10, 20, 50)
        for kind in ("normal", "skewed")
    },
    **{f"mean of {n}|{m}": (crossed_mean, n, m) for n, m in ((10, 10), (20, 10))},
    **{
        f"difference of {groups}x3, {first} and {second}": (
            *(clustered_difference, first, second, groups, 3),
        )
        for groups in (10, 20, 50)
        for first, second in ((0.9, 0.1), (0.5, 0.3), (0.98, 0.02))
    },
}


def other_cell(name, draws=None):
    draws = draws or SLOW_DRAWS[name.split()[0]]
    rng, (draw, *how) = seed(name), OTHERS[name]
    runs = [draw(rng, *how) for _ in range(draws)]
    truth = runs[0][0]
    ours = tuple(np.array([[e.low, e.high] for _, e, _ in runs]).T)
    others = {method: tuple(np.array([run[2][method] for run in runs]).T) for method in runs[0][2]}
    return judged(truth, ours, others)


# ---- what is asserted

# Name to (coverage, width over that of the narrowest valid method): the cells that miss a target.
# All are too wide, none covers too little: rates of .98 in few groups, where often all samples are
# 1. What is valid there beside ours takes every sample for independent, which nothing in such a
# draw can tell; at this one rate it covers whatever the correlation, at .9 it does not. Ours then
# counts groups.
MISSES = {
    "0.98 of 10x4, icc 0": (0.993, 2.11),
    "0.98 of 10x4, icc 0.1": (0.996, 3.52),
    "0.98 of 10x4, icc 0.3": (0.998, 3.52),
    "0.98 of 10x10, icc 0.1": (0.996, 2.52),
    "0.98 of 10x10, icc 0.5": (0.998, 8.34),
    "0.98 of 20x4, icc 0": (0.985, 2.13),
    "0.98 of 20x4, icc 0.1": (0.994, 2.13),
    "0.98 of 20x4, icc 0.3": (0.997, 2.56),
    "0.98 of 20x10, icc 0.5": (0.996, 2.89),
    "0.98 of 10|10, both": (0.996, 4.04),
    "0.98 of 10|10, one": (0.996, 2.35),
    "0.98 of 10|10, none": (0.992, 1.74),
    "0.98 of 20|10, both": (0.996, 1.72),
    "f1 of 10x5, J 0.96, icc 0.1": (0.996, 2.37),
    "f1 of 20x5, J 0.96, icc 0.1": (0.992, 1.69),
}


def check(name, coverage, wider, draws):
    """Both targets; of a known miss, what it reaches, and that it is still one."""
    met = coverage >= TARGET - slack(draws) and wider <= WIDER
    if name not in MISSES:
        assert met, f"{name}: coverage {coverage:.3f}, {wider:.2f} times as wide as need be"
        return
    was, wide = MISSES[name]
    assert coverage >= was - 0.01 and wider <= wide + 0.03, (name, coverage, wider)
    assert not met, f"{name} meets both targets now: take it out of MISSES"


@pytest.mark.long
@pytest.mark.parametrize("name", cells())
def test_shares(name, monkeypatch):
    coverage, wider, _ = share_cell(name, monkeypatch)
    check(name, coverage, wider, DRAWS)


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_other_estimates(name):
    coverage, wider, _ = other_cell(name)
    check(name, coverage, wider, SLOW_DRAWS[name.split()[0]])


FEW = [
    *("0.5 of 20x4, icc 0.3", "0.9 of 10x1, icc 0", "0.9 of 20x10, icc 0.1"),
    *("0.98 of 50x4, icc 0", "0.9 of 20|20, both", "0.5 of 10|10, one"),
]


@pytest.mark.parametrize("name", FEW)
def test_some_shares(name, monkeypatch):
    coverage, wider, _ = share_cell(name, monkeypatch, 1000)
    check(name, coverage, wider, 1000)


SOME = [
    *("auroc of 10x4, distance 1.0, shared 0.5", "f1 of 20x5, J 0.8, icc 0.3"),
    *("normal mean of 10x3", "difference of 20x3, 0.5 and 0.3"),
]


@pytest.mark.parametrize("name", SOME)
def test_some_other_estimates(name):
    coverage, wider, _ = other_cell(name, 150)
    check(name, coverage, wider, 150)


def test_every_miss_is_a_cell():
    assert set(MISSES) <= set(cells()) | set(OTHERS) and not set(MISSES) & {*FEW, *SOME}


def test_a_method_that_claims_too_much_is_found():
    """The measure itself: Wilson with all n, in groups that are alike, covers far too seldom."""
    rng = np.random.default_rng(0)
    hits = one_factor(rng, 0.9, 20, 10, 0.5, 1000).astype(float)
    found = named(hits, False, rng)
    coverage, _, best = judged(0.9, found["Wilson"], found)
    assert coverage < 0.7 and best not in ("Wilson", "Clopper-Pearson")
