"""Estimates with intervals that respect groups.

A group is what makes samples alike: a text for its tokens, a sentence frame for its sentences, a
seed prompt for its variants. Everywhere `groups` holds one label a sample, or nothing where each
sample is its own group. A label "frame|word" names two groups that cross, if any label of the
samples has two parts; one that has not stands for itself in both. The variance is then that of both
(Cameron, Gelbach and Miller 2011), and the count of groups is that of the factor which has fewer.

`family`: how many claims are made together. Intervals are simultaneous, at level 1 - .05 / family.

Numbers that lie between 0 and 1 (share, f1, auroc, both shares of a difference of yes and no) get
the interval of Clopper and Pearson with an effective number of samples, as Korn and Graubard (1998)
proposed for clustered samples: value (1 - value) / variance, times (z / t)². Degrees of freedom of
t are those of Satterthwaite, from how unequally the groups contribute to the variance, and at least
3 (2 where all groups are alike; of fewer than four groups, one less than there are): where two of
20 groups bring all the errors, nobody knows the variance well. Such an interval always has width,
at 0 and 1 too, where each group counts once, and groups of unlike size n_g for n² / Σ n_g². Means
and ratios of other numbers are bootstrapped over groups, with percentiles widened for small numbers
of them (Hesterberg 2015, section 6.3). They end at the outermost of 10,000 draws, which is too near
for families of more than five claims in eight groups or so.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import beta, norm, t

DRAWS = 2000
LEVEL = 0.05


class Estimate(NamedTuple):
    """A measured value with its interval. `claim` judges it."""

    value: float
    low: float
    high: float
    n: int
    """samples"""
    groups: int = 0
    """of the samples, those of the factor with fewer; 0: not known"""
    family: int = 1
    """the interval has the level 1 - .05 / family"""
    effective: float | None = None
    """of a share or AUROC: the n of its Clopper-Pearson interval, value (1 - value) / variance
    times (z / t)², and no less than the groups count for"""

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    @classmethod
    def of(cls, row) -> "Estimate":
        """The estimate in a row of a table, as `_asdict()` has put it there."""
        row = row._asdict() if hasattr(row, "_asdict") else dict(row)
        whole = {name: int(row[name]) for name in ("n", "groups", "family")}
        return cls(**{name: row[name] for name in ("value", "low", "high")} | whole)


def factors(groups, n: int) -> list[np.ndarray]:
    """The groups of n samples as numbers from 0: one array [n], or two where they cross.

    groups: labels [n], or nothing. ValueError if there are not n of them, or one is missing: such
    samples would make up a group.
    """
    if groups is None:
        return [np.arange(n)]
    labels = _array(groups, object)
    if missing := int(pd.isna(labels).sum()):
        raise ValueError(
            f"{missing} of {len(labels)} groups are missing (nan); give each sample one"
        )
    labels = [str(label) for label in labels]
    if len(labels) != n:
        raise ValueError(f"{len(labels)} groups for {n} samples; give one label a sample")
    if any("|" in label for label in labels):  # one without a second part stands for itself
        pairs = [label if "|" in label else f"{label}|{label}" for label in labels]
        columns = zip(*(pair.split("|", 1) for pair in pairs), strict=True)
    else:
        columns = [labels]
    return [np.unique(list(column), return_inverse=True)[1] for column in columns]


def n_groups(groups, n: int) -> int:
    """How many groups n samples have; of two factors, those of the one with fewer."""
    return min(int(codes.max()) + 1 for codes in factors(groups, n))


def share(hits, groups=None, family: int = 1) -> Estimate:
    """The mean of hits [samples], each yes or no, or a number from 0 to 1.

    ValueError for other numbers, or none.
    """
    hits = _numbers("share", "hits", hits)
    if not len(hits) or not ((hits >= 0) & (hits <= 1)).all():
        raise ValueError("share needs hits: at least one, each yes or no, or from 0 to 1")
    value = hits.mean()
    most = len(hits) if np.isin(hits, (0, 1)).all() else np.inf
    return _bounded(value, (hits - value) / len(hits), factors(groups, len(hits)), family, most)


def f1(flagged, positive, groups=None, family: int = 1) -> Estimate:
    """F1 = 2 TP / (2 TP + FP + FN) of flags against labels, both yes or no [samples].

    It rises with J = TP / (TP + FP + FN), the share of hits among the samples that are flagged or
    positive: F1 = 2 J / (1 + J) (Hand, Christen and Kirielle 2021). So its interval is that of a
    share. n counts all samples. ValueError if nothing is flagged or positive.
    """
    flagged, positive = _labelled("f1", positive, flagged=flagged)
    flagged = flagged > 0
    groups = None if groups is None else _array(groups, object)
    factors(groups, len(flagged))  # one label a sample
    either = flagged | positive
    if not either.any():
        raise ValueError("f1: nothing is flagged or positive")
    chosen = None if groups is None else [g for g, e in zip(groups, either, strict=True) if e]
    found = share((flagged & positive)[either], chosen, family)
    value, low, high = (2 * j / (1 + j) for j in found[:3])
    # That of J is no number of F1, whose spread is another one.
    return found._replace(value=value, low=low, high=high, n=len(flagged), effective=None)


def auroc(scores, positive, groups=None, family: int = 1) -> Estimate:
    """Area under the ROC curve of scores [samples] for labels [samples], ties counted half.

    Variance: placements of each sample (DeLong 1988), summed over groups (Obuchowski 1997). It is
    at most value (1 - value) / groups of the rarer label, which count for fewer if they are of
    unlike size. groups counts those of the rarer label.
    ValueError if a label is missing, or neither yes nor no.
    """
    scores, positive = _labelled("auroc", positive, scores=scores)
    if positive.all() or not positive.any():
        raise ValueError("auroc needs positive and negative samples; one kind is missing")
    wins = _wins(scores, positive)
    value = wins.mean()
    parts = np.empty(len(scores))
    parts[positive] = (wins.mean(1) - value) / positive.sum()
    parts[~positive] = (wins.mean(0) - value) / (~positive).sum()
    codes = factors(groups, len(scores))
    return _bounded(value, parts, codes, family, len(scores), [positive, ~positive])


def ratio(top, bottom, groups=None, family: int = 1) -> Estimate:
    """sum(top) / sum(bottom) of numbers [samples], bootstrapped over groups.

    Samples with 0 in both say nothing of it, and their groups do not count; n counts them.
    ValueError if the bottom sums to 0. One group has no interval: nan.
    """
    top, bottom = _together("ratio", top=top, bottom=bottom)
    if bottom.sum() == 0:
        raise ValueError("ratio: the bottom sums to 0, so there is nothing to compare with")
    groups = None if groups is None else _array(groups, object)
    factors(groups, len(top))  # one label a sample
    n, some = len(top), (top != 0) | (bottom != 0)
    groups = None if groups is None else groups[some]
    top, bottom = top[some], bottom[some]

    def quotient(weights):
        tops, bottoms = weights @ top, weights @ bottom
        return tops[bottoms != 0] / bottoms[bottoms != 0]

    found = _bootstrapped(top.sum() / bottom.sum(), quotient, groups, len(top), family)
    return found._replace(n=n)


def mean(values, groups=None, family: int = 1) -> Estimate:
    """The mean of numbers [samples], bootstrapped over groups. For yes and no take `share`."""
    values = _numbers("mean", "values", values)
    return ratio(values, np.ones_like(values), groups, family)


def difference(first, second, groups=None, family: int = 1) -> Estimate:
    """The mean of first - second, pair by pair; numbers [samples].

    Where the first are yes or no and the second from 0 to 1, the intervals of both shares are
    squared and added (MOVER: Newcombe 1998, method 10; Zou and Donner 2008), less what their
    correlation over groups explains, which is taken to be .8 at most: pairs that agree entirely
    leave some room. Other differences are bootstrapped.
    """
    first, second = _together("difference", first=first, second=second)
    if not (np.isin(first, (0, 1)).all() and ((second >= 0) & (second <= 1)).all()):
        return mean(first - second, groups, family)
    one, other = share(first, groups, family), share(second, groups, family)
    codes = factors(groups, len(first))
    alike = min(0.8, *(_correlation(first, second, c) for c in codes), 0.8)

    def reach(up: float, down: float) -> float:
        return np.sqrt(max(up**2 + down**2 - 2 * alike * up * down, 0.0))

    value = one.value - other.value
    low = value - reach(one.value - one.low, other.high - other.value)
    high = value + reach(one.high - one.value, other.value - other.low)
    return one._replace(value=value, low=float(low), high=float(high), effective=None)


class Against(NamedTuple):
    """An effect beside its null control: what `claim` takes as `null`."""

    difference: Estimate
    """of the effect and the mean null draw, on the same samples"""
    value: float
    """the effect"""
    draws: np.ndarray
    """the same statistic of each null draw [draws]"""


def against(values, nulls, positive=None, groups=None, family: int = 1, by="mean") -> Against:
    """An effect against null draws, sample by sample.

    values: numbers [samples], the outcome of each sample; nulls [draws, samples]: the outcomes of
    the same samples under each null draw. by: "mean"; or "f1" and "auroc", where values and nulls
    are flags or scores and `positive` [samples] the labels. These two are bootstrapped over groups.
    A bootstrap knows too little of an error that few groups bring, and nothing of one that none
    does: so beside several draws the difference is never told more closely than the effect itself,
    and an effect, or a single null draw, of 0 or 1 brings in its own interval. Two that are near
    0 or 1 and are compared by themselves have the plain interval, which is too narrow there.
    """
    values, nulls = _array(values), np.atleast_2d(np.asarray(nulls))
    if nulls.shape[1] != len(values):
        raise ValueError(f"{len(values)} samples, but {nulls.shape[1]} in each null draw")
    if by == "mean":
        gap = difference(values, nulls.mean(0), groups, family)
        return Against(gap, float(values.mean()), nulls.mean(1))
    if by not in ("f1", "auroc"):
        raise ValueError(f"by={by!r}; use mean, f1 or auroc")
    if positive is None:
        raise ValueError(f"{by} needs positive: the labels of the samples")
    values, positive = _labelled(by, positive, values=values)
    if np.isnan(nulls.astype(float)).any():
        raise ValueError("against: outcomes of null draws are no numbers (nan)")
    if by == "auroc" and (positive.all() or not positive.any()):
        raise ValueError("auroc needs positive and negative samples; one kind is missing")
    statistic = {"f1": _f1s, "auroc": _areas}[by]
    every = np.ones((1, len(values)))
    draws = np.array([statistic(null, positive, every)[0] for null in nulls])

    if by == "auroc":  # linear in the wins, so that the mean over all draws is one area
        mean_wins = sum(_wins(null, positive) for null in nulls) / len(nulls)

    def gaps(weights):
        if by == "auroc":
            chance = _area(mean_wins, positive, weights)
        else:
            chance = np.mean([statistic(null, positive, weights) for null in nulls], axis=0)
        found = statistic(values, positive, weights) - chance
        return found[np.isfinite(found)]  # a draw without positives says nothing

    value = float(statistic(values, positive, every)[0])
    gap = _bootstrapped(value - draws.mean(), gaps, groups, len(values), family)
    own = {"f1": f1, "auroc": auroc}[by]
    part = own(values, positive, groups, family)
    if value in (0, 1):
        gap = _widened(gap, part)
    elif len(nulls) > 1:
        low, high = gap.value - (value - part.low), gap.value + (part.high - value)
        gap = gap._replace(low=float(min(gap.low, low)), high=float(max(gap.high, high)))
    if len(nulls) == 1 and draws[0] in (0, 1):
        gap = _widened(gap, own(nulls[0], positive, groups, family), subtracted=True)
    return Against(gap, value, draws)


def _widened(gap: Estimate, part: Estimate, subtracted: bool = False) -> Estimate:
    """A bootstrapped difference with a part that is 0 or 1 in every draw, as if it were known: what
    is known of that part is squared and added (MOVER, see `difference`)."""
    down, up = part.value - part.low, part.high - part.value
    if subtracted:
        down, up = up, down
    low = gap.value - np.hypot(gap.value - gap.low, down)
    high = gap.value + np.hypot(gap.high - gap.value, up)
    return gap._replace(low=float(low), high=float(high))


def groups_needed(estimate: Estimate, above=None, below=None, power: float = 0.8) -> float:
    """About how many groups would make an effect of this size SHOWN, with probability `power`.

    The power of a claim: true value and spread are taken to be those of the estimate, and the
    interval to shrink with the root of the number of groups (which keeps the t of these groups: a
    few of them ask for more than it takes); at least 8 (fewer make no verdict),
    inf if the value lies on the wrong side. above, below: the threshold, or the margin of a
    difference. A share has the spread of its own value at one end and of the threshold at the
    other, as in the usual formula for a sample's size; other estimates have that of their interval.
    """
    if (above is None) == (below is None) or estimate.groups < 2:
        raise ValueError(
            "groups_needed: give above or below, and an estimate of two groups or more"
        )
    edge = above if below is None else below
    gap = estimate.value - edge if below is None else edge - estimate.value
    if gap <= 0:
        return np.inf
    tail = LEVEL / estimate.family / 2
    need, extra = norm.isf(tail), norm.ppf(power)
    if estimate.effective:
        inflation = estimate.groups / estimate.effective
        at_edge, here = (np.sqrt(p * (1 - p) * inflation) for p in (edge, estimate.value))
    else:
        reach = estimate.value - estimate.low if below is None else estimate.high - estimate.value
        at_edge = here = reach * np.sqrt(estimate.groups) / t.isf(tail, estimate.groups - 1)
    return float(max(8, np.ceil(((need * at_edge + extra * here) / gap) ** 2)))


def yes_or_no(name: str, labels) -> np.ndarray:
    """Labels as bool [samples]: True and False, 1 and 0, or 1 and -1.

    ValueError for all else. Words, "" and nan among it, as Python's own rule would make them True.
    """
    labels = _numbers("labels", name, labels)
    if not np.isin(labels, (0, 1)).all() and not np.isin(labels, (-1, 1)).all():
        odd = labels[~np.isin(labels, (0, 1))][0]
        raise ValueError(f"labels: {name} holds {odd:g}; give yes or no, 1 or 0, for each sample")
    return labels > 0


def _labelled(name: str, positive, **column) -> list[np.ndarray]:
    """A column of numbers, and as many labels, yes or no."""
    values, labels = _together(name, **column, positive=positive)
    return [values, yes_or_no("positive", labels)]


def _array(values: Any, dtype=None) -> np.ndarray:
    """Numbers or labels as a flat array, by position; an iterator is read once."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(list(values) if isinstance(values, Iterator) else values, dtype).reshape(-1)


def _numbers(name: str, key: str, column) -> np.ndarray:
    """A column as float [samples]. ValueError for words, "" and what else is no number."""
    values = _array(column)
    try:
        return values.astype(float)
    except (TypeError, ValueError):
        begin = values.tolist()[:3]
        raise ValueError(f"{name}: {key} must be numbers, or yes and no; got {begin}") from None


def _together(name: str, **columns) -> list[np.ndarray]:
    """Columns as flat arrays of numbers; ValueError if they are not equally long, or empty."""
    arrays = {key: _numbers(name, key, column) for key, column in columns.items()}
    sizes = {key: len(array) for key, array in arrays.items()}
    if len({*sizes.values()}) > 1 or not all(sizes.values()):
        said = " and ".join(f"{n} {key}" for key, n in sizes.items())
        raise ValueError(f"{name} got {said}; give as many of each, and at least one")
    for key, array in arrays.items():
        if missing := int(np.isnan(array).sum()):
            raise ValueError(f"{name}: {missing} of {len(array)} {key} are no numbers (nan)")
    return list(arrays.values())


def _correlation(first: np.ndarray, second: np.ndarray, codes: np.ndarray) -> float:
    """Of what groups contribute to two means; 0 where one of them does not vary."""
    one, other = (np.bincount(codes, x - x.mean()) for x in (first, second))
    size = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / size) if size > 1e-12 else 0.0


def _sums(parts: np.ndarray, codes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sums of parts [samples] over the groups of each factor; of two, over their cells too."""
    codes = [*codes, _cells(codes)] if len(codes) == 2 else codes
    return [np.bincount(c, parts) for c in codes]


def _cells(codes: Sequence[np.ndarray]) -> np.ndarray:
    """Which cell of two crossed factors each sample is in, as numbers from 0."""
    return np.unique(np.stack(codes), axis=1, return_inverse=True)[1].reshape(-1)


def _crossed(spreads: Sequence[float]) -> float:
    """The variance of one factor, or of two from both and their cells: at least the larger."""
    if len(spreads) == 1:
        return spreads[0]
    first, second, cells = spreads
    return max(first + second - cells, first, second)


def _bounded(value, parts, codes, family, most=np.inf, sides=None) -> Estimate:
    """The estimate of a number between 0 and 1; see the docstring of this module.

    parts [samples]: what each contributes to value - truth; most: the effective n is not above it;
    sides: bool [samples] of each kind of sample that is averaged by itself, by default one kind.
    """
    sides = sides or [np.ones(len(parts), bool)]
    sizes = [[np.bincount(c[side], minlength=c.max() + 1) for side in sides] for c in codes]
    groups = min(int((n > 0).sum()) for kinds in sizes for n in kinds)
    # Groups of unlike size count for fewer: n² / Σ n_g². The variance is never above that of them.
    least = min(groups, *(n.sum() ** 2 / (n**2).sum() for kinds in sizes for n in kinds))
    sums = _sums(parts, codes)
    # A group that holds much of the samples pulls the value to its own: its residual is too small.
    # If groups vary alike, its square is so by 1 - 2 w + Σ w², w being their shares of the samples.
    shares = [np.array([n / n.sum() for n in kinds]) for kinds in sizes]
    if len(codes) == 2:
        shares.append(np.bincount(_cells(codes))[None] / len(parts))
    rest = [(1 - 2 * w + (w**2).sum(1, keepdims=True)).min(0).clip(1e-9) for w in shares]
    spreads = [(s**2 / r).sum() for s, r in zip(sums, rest, strict=True)]
    spread, tail = _crossed(spreads), LEVEL / family / 2
    if len(codes) == 1 and groups == len(parts) == most:
        effective = most  # one yes or no a group: nothing has to be estimated
    elif not 0 < value < 1:
        effective = least
    else:
        if spread < 1e-15:  # all alike, but neither 0 nor 1: as if one group were half a step off
            spread, freedom = (0.5 / groups) ** 2, 2.0
        else:
            varying = [s for s in sums[: len(codes)] if (s**4).sum() > 0]  # one factor may not
            freedom = min((2 * (s**2).sum() ** 2 / (s**4).sum() for s in varying), default=2.0)
            freedom = float(np.clip(freedom, min(3, groups - 1), groups - 1)) if groups > 1 else 1.0
        shrink = (norm.isf(tail) / t.isf(tail, freedom)) ** 2
        effective = np.clip(value * (1 - value) / spread * shrink, least, max(most, least))
    hits, misses = value * effective, (1 - value) * effective
    low = beta.ppf(tail, hits, misses + 1) if hits > 1e-9 else 0.0
    high = beta.isf(tail, hits + 1, misses) if misses > 1e-9 else 1.0
    found = Estimate(float(value), float(low), float(high), len(parts), groups, family)
    return found._replace(effective=float(effective))


def _bootstrapped(value, statistic, groups, n, family, fewest=(np.inf, np.inf)) -> Estimate:
    """A value with the bootstrap interval of statistic(weights [draws, n]) over groups.

    fewest: for each factor, as many groups count at most.
    """
    codes = factors(groups, n)
    count = min(int(c.max()) + 1 for c in codes)
    if count < 2:  # one group says nothing about others
        return Estimate(float(value), np.nan, np.nan, n, count, family)
    if len(codes) == 2:
        codes = [*codes, _cells(codes)]
    drawn = [statistic(_weights(c, family)) for c in codes]
    found = []
    for c, values, most in zip(codes[:2], drawn[:2], fewest, strict=False):
        size = max(2, min(int(c.max()) + 1, most))
        tail = norm.cdf(np.sqrt(size / (size - 1)) * t.ppf(LEVEL / family / 2, size - 1))
        found.append(np.quantile(values, [tail, 1 - tail]))
    with np.errstate(invalid="ignore"):  # a ratio may lie at inf, from end to end
        wide = int(np.argmax([high - low for low, high in found]))
    low, high = found[wide]
    if len(codes) == 3:
        spreads = [float(np.var(values)) for values in drawn]
        stretch = np.sqrt(_crossed(spreads) / spreads[wide]) if spreads[wide] else 1.0
        low, high = value + stretch * (low - value), value + stretch * (high - value)
    return Estimate(float(value), float(low), float(high), n, count, family)


def _weights(codes: np.ndarray, family: int) -> np.ndarray:
    """How often each sample is drawn if whole groups are: [draws, samples], from a fixed seed."""
    size, draws = int(codes.max()) + 1, DRAWS * min(family, 5)
    rng = np.random.default_rng(0)
    return rng.multinomial(size, np.full(size, 1 / size), draws)[:, codes].astype(float)


def _wins(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """1 where a positive sample has the larger score, .5 where both are alike: [pos, neg]."""
    pos, neg = scores[positive], scores[~positive]
    return (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)


def _areas(scores, positive, weights) -> np.ndarray:
    """AUROC of scores for each row of weights [draws, samples]."""
    return _area(_wins(_array(scores), positive), positive, weights)


def _area(wins, positive, weights) -> np.ndarray:
    """The weighted mean of wins [positive, negative] for each row of weights [draws, samples]."""
    pos, neg = weights[:, positive], weights[:, ~positive]
    with np.errstate(invalid="ignore"):
        return ((pos @ wins) * neg).sum(1) / (pos.sum(1) * neg.sum(1))


def _f1s(flagged, positive, weights) -> np.ndarray:
    """F1 of flags for each row of weights [draws, samples]."""
    flagged = _array(flagged) > 0
    with np.errstate(invalid="ignore"):
        return 2 * weights @ (flagged & positive) / (weights @ (1.0 * flagged + positive))
