"""Notebook 06. Interventions compared at equal effect: what each costs where all do the same.

Between two neighbouring doses, and between no edit and the smallest, cost is interpolated
linearly. Intervals are percentile bootstraps over prompts, or over groups of like prompts, which
are no independent samples. Both kinds of prompts are drawn at once; the same draws serve all
curves of a comparison, so that gaps are paired.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..evidence.stats import DRAWS, Estimate


def cheapest(tried: pd.DataFrame, reduction: float) -> pd.Series | None:
    """The row with the lowest `cost` of those whose `reduction` is enough; None if none is."""
    enough = tried[tried.reduction >= reduction]
    return enough.loc[enough.cost.idxmin()] if len(enough) else None


def interpolated(reductions, costs, at) -> np.ndarray:
    """Costs at some reductions, between no edit (0, 0) and the measured points; NaN beyond.

    reductions, costs: [..., points], in any order; at: a number or [levels]. Returns [..., levels].
    """
    none = np.zeros((*np.shape(reductions)[:-1], 1))
    effect = np.concatenate([none, np.asarray(reductions, float)], -1)
    cost = np.concatenate([none, np.asarray(costs, float)], -1)
    order, at = effect.argsort(-1, kind="stable"), np.asarray(at, float)
    effect, cost = (np.take_along_axis(x, order, -1)[..., None] for x in (effect, cost))
    out = np.full(np.broadcast_shapes(effect[..., 0, :].shape, at.shape), np.nan)
    for p in range(effect.shape[-2] - 1):
        low, high = effect[..., p, :], effect[..., p + 1, :]
        part = np.divide(at - low, high - low, out=np.zeros_like(out), where=high > low)
        value = cost[..., p, :] + part * (cost[..., p + 1, :] - cost[..., p, :])
        out = np.where((low <= at) & (at <= high), value, out)
    return out if at.ndim else out[..., 0][()]  # a number, not an array of none


class Curve(NamedTuple):
    """One intervention at some doses, in any order."""

    outcome: np.ndarray
    """[doses, prompts]: 1 where the behaviour is still there (a refusal)"""
    cost: np.ndarray
    """[doses, other prompts]: what it costs on prompts that should not change"""
    plain: np.ndarray
    """[prompts]: the outcome without an edit"""
    groups: tuple[np.ndarray, np.ndarray] | None = None
    """names of the groups of both kinds of prompts, drawn as a whole; None: each prompt alone"""

    def reached(self) -> float:
        """The largest reduction of the outcome, as a share of the plain one."""
        return float(1 - self.outcome.mean(1).min() / self.plain.mean())


def cost_at(curve: Curve, reductions: Sequence[float], seed: int = 0) -> list[Estimate]:
    """The mean cost at each reduction (0.5: half of the outcomes are gone). NaN where the curve
    does not get there; no interval where more than 5 % of the draws do not."""
    return [_estimate(column, curve) for column in _drawn(curve, reductions, seed).T]


def area(curve: Curve, most: float, seed: int = 0) -> Estimate:
    """The cost, averaged over reductions from 0 to `most`: the area under the Pareto curve over
    its width. NaN if the curve does not get there."""
    return _estimate(_drawn(curve, np.linspace(0, most, 50), seed).mean(1), curve)


def cost_gap(first: Curve, second: Curve, reduction: float, seed=0, tests=1) -> Estimate:
    """Cost of the first minus that of the second at an equal reduction, in paired draws.

    tests: how many such gaps are judged together; the interval then covers all of them with 95 %
    (Bonferroni). ValueError if the curves are not over the same numbers of prompts.
    """
    sizes = [(curve.outcome.shape[1], curve.cost.shape[1]) for curve in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError("the two curves were measured on different prompts; use the same")
    both = [_drawn(curve, [reduction], seed)[:, 0] for curve in (first, second)]
    return _estimate(both[0] - both[1], first, tests)


def _drawn(curve: Curve, reductions: Sequence[float], seed: int) -> np.ndarray:
    """Interpolated costs, [1 + DRAWS, reductions]; row 0 is the sample itself."""
    groups = curve.groups or (range(curve.outcome.shape[1]), range(curve.cost.shape[1]))
    w, v = (_weights(tuple(names), seed + i) for i, names in enumerate(groups))
    plain = w @ curve.plain
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = 1 - (w @ curve.outcome.T) / plain[:, None]
    return interpolated(effect, v @ curve.cost.T, reductions)


@functools.lru_cache(maxsize=4)
def _weights(groups: tuple, seed: int) -> np.ndarray:
    """Shares of prompts, [1 + DRAWS, prompts]: all alike, then in each draw of whole groups."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    weights = np.vstack([np.ones(len(names)), drawn])[:, place]
    return weights / weights.sum(1, keepdims=True)


def _estimate(drawn: np.ndarray, curve: Curve, tests: int = 1) -> Estimate:
    low = high = np.nan
    reached = drawn[1:][np.isfinite(drawn[1:])]
    if np.isfinite(drawn[0]) and len(reached) >= 0.95 * (len(drawn) - 1):
        low, high = np.quantile(reached, [0.025 / tests, 1 - 0.025 / tests])
    return Estimate(float(drawn[0]), float(low), float(high), curve.cost.shape[1])
