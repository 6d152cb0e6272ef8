"""Interventions compared at equal effect: what each costs where all do the same.

Between two neighbouring strengths, and between no edit and the weakest, cost is interpolated
linearly. Intervals are those of `stats`, over groups of like prompts, as wide as those of the kind
of prompts that has fewer. Draws that do not get to the reduction, one in twenty at most, are left
out, so that the dear end may be told too near. Both kinds of prompts are drawn at once, and the
same draws serve all curves of a comparison, so that gaps are paired.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .stats import Estimate, _bootstrapped, factors, n_groups


def interpolated(reductions, costs, at) -> np.ndarray:
    """Costs at some reductions, between no edit (0, 0) and the measured points; NaN beyond. A point
    that reduces more for less takes the place of a dearer one.

    reductions, costs: [..., points], in any order; at: a number or [levels]. Returns [..., levels].
    """
    none = np.zeros((*np.shape(reductions)[:-1], 1))
    effect = np.concatenate([none, np.asarray(reductions, float)], -1)
    cost = np.concatenate([none, np.asarray(costs, float)], -1)
    order, at = np.lexsort((-cost, effect)), np.asarray(at, float)
    effect, cost = (np.take_along_axis(x, order, -1) for x in (effect, cost))
    cost = np.minimum.accumulate(cost[..., ::-1], -1)[..., ::-1]  # from the strongest down
    effect, cost = effect[..., None], cost[..., None]
    out = np.full(np.broadcast_shapes(effect[..., 0, :].shape, at.shape), np.nan)
    for p in range(effect.shape[-2] - 1):
        low, high = effect[..., p, :], effect[..., p + 1, :]
        part = np.divide(at - low, high - low, out=np.zeros_like(out), where=high > low)
        value = cost[..., p, :] + part * (cost[..., p + 1, :] - cost[..., p, :])
        out = np.where((low <= at) & (at <= high), value, out)
    return out if at.ndim else out[..., 0][()]  # a number, not an array of none


class Curve(NamedTuple):
    """One intervention at some strengths, in any order."""

    outcome: np.ndarray
    """[strengths, prompts]: 1 where the behaviour is still there (a refusal)"""
    cost: np.ndarray
    """[strengths, other prompts]: what it costs on prompts that should not change"""
    plain: np.ndarray
    """[prompts]: the outcome without an edit"""
    groups: tuple[Sequence[str], Sequence[str]] | None = None
    """labels of the groups of both kinds of prompts; None: each prompt is its own group"""

    def reached(self) -> float:
        """The largest reduction of the outcome, as a share of the plain one."""
        return float(1 - self.outcome.mean(1).min() / self.plain.mean())

    def costs(self, reductions: Sequence[float]) -> np.ndarray:
        """The mean cost at each reduction (0.5: half of the outcomes are gone); NaN beyond."""
        effect = 1 - self.outcome.mean(1) / self.plain.mean()
        return interpolated(effect, self.cost.mean(1), reductions)


def cost_at(curve: Curve, reduction: float) -> Estimate:
    """The mean cost at a reduction. NaN where the curve does not get there; no interval where
    more than 5 % of the draws do not, or where there is one group only."""
    return _estimate(lambda points: interpolated(*points[0], [reduction])[:, 0], [curve])


def cost_gap(first: Curve, second: Curve, reduction: float, family: int = 1) -> Estimate:
    """Cost of the first minus that of the second at an equal reduction, in paired draws.

    family: how many such gaps are judged together. ValueError if the curves are not over the same
    numbers of prompts.
    """
    sizes = [(curve.outcome.shape[1], curve.cost.shape[1]) for curve in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError("the two curves were measured on different prompts; use the same")

    def gap(points):
        one, other = (interpolated(*point, [reduction])[:, 0] for point in points)
        return one - other

    return _estimate(gap, [first, second], family)


def gap_samples(first: Curve, second: Curve, reduction: float) -> dict[str, Any]:
    """What `cost_gap` computes with, a row a prompt, as `claim` takes it: under "first_0" and on
    the outcome at a strength where `has_outcome` is 1, and the cost where it is 0."""
    bad, good = first.outcome.shape[1], first.cost.shape[1]
    columns = {"by": "cost_gap", "reduction": np.full(bad + good, reduction)}
    columns["has_outcome"] = np.repeat([1, 0], [bad, good])
    for name, curve in {"first": first, "second": second}.items():
        columns[f"{name}_plain"] = np.concatenate([curve.plain, np.zeros(good)])
        for i, both in enumerate(zip(curve.outcome, curve.cost, strict=True)):
            columns[f"{name}_{i}"] = np.concatenate(both)
    return columns | {"groups": first.groups and np.concatenate(first.groups)}


def gap_again(reduction, has_outcome, groups=None, family: int = 1, **points) -> Estimate:
    """`cost_gap` of the columns that `gap_samples` gives."""
    bad = np.asarray(has_outcome) > 0
    labels = None if groups is None else [np.asarray(groups, object)[part] for part in (bad, ~bad)]

    def curve(name: str) -> Curve:
        rows = np.array([x for key, x in points.items() if key.startswith(f"{name}_")])
        return Curve(rows[1:, bad], rows[1:, ~bad], rows[0, bad], labels)

    return cost_gap(curve("first"), curve("second"), reduction[0], family)


def _estimate(statistic: Callable, curves: Sequence[Curve], family: int = 1) -> Estimate:
    """A statistic of the points of curves: of each (reductions, costs), both [draws, strengths]."""
    first = curves[0]
    sizes = bad, good = first.outcome.shape[1], first.cost.shape[1]
    labels = None if first.groups is None else np.concatenate(first.groups)
    groups = min(map(n_groups, first.groups or (None, None), sizes))

    def points(curve: Curve, weights: np.ndarray):
        w, v = weights[:, :bad], weights[:, bad:]
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = 1 - (w @ curve.outcome.T) / (w @ curve.plain)[:, None]
            return effect, (v @ curve.cost.T) / v.sum(1, keepdims=True)

    def reached(weights: np.ndarray) -> np.ndarray:
        drawn = statistic([points(curve, weights) for curve in curves])
        known = drawn[np.isfinite(drawn)]
        return known if len(known) >= 0.95 * len(drawn) else np.array([np.nan])

    value = float(reached(np.ones((1, sum(sizes))))[0])
    found = Estimate(value, np.nan, np.nan, good, groups, family)
    if not np.isfinite(value) or groups < 2:
        return found
    kinds = [factors(part, n) for part, n in zip(first.groups or (None, None), sizes, strict=True)]
    # A kind without second parts stands for itself in both factors.
    fewest = [min(int(codes[min(i, len(codes) - 1)].max()) + 1 for codes in kinds) for i in (0, 1)]
    drawn = _bootstrapped(value, reached, labels, sum(sizes), family, fewest)
    return found._replace(low=drawn.low, high=drawn.high)
