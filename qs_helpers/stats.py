"""Intervals for what is measured.

Estimate  a value with its 95 % interval and the number of samples
share     a share of independent trials, Wilson's interval
ratio     a ratio of sums, bootstrapped over independent units such as texts
mean      a mean, bootstrapped in the same way
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest

__all__ = ["Estimate", "mean", "ratio", "share"]

DRAWS = 2000


class Estimate(NamedTuple):
    """A measured value, its 95 % interval and n. `interval` is what `claim` takes."""

    value: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


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
        raise ValueError(f"{len(top)} tops, {len(bottom)} bottoms, {len(units)} units: make equal")
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
    limits = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = (drawn[0] / drawn[1]).quantile(limits).tolist()
    return Estimate((top.sum() / bottom.sum()).item(), low, high, len(names))


def mean(values, units=None, seed: int = 0) -> Estimate:
    """The mean of values [samples], bootstrapped over units as in `ratio`."""
    values = _column(values).double()
    return ratio(values, torch.ones_like(values), units, seed)


def _column(values) -> torch.Tensor:
    """Numbers as a flat tensor on the CPU; arrays of pandas are copied, they cannot be written."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().flatten()
    return torch.tensor(np.asarray(values)).flatten()
