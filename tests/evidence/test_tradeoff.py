"""The price of an effect: curves, costs at equal effect, their gaps and intervals."""

import numpy as np
import pandas as pd
import pytest

from qs_helpers.evidence import tradeoff
from qs_helpers.evidence.tradeoff import Curve, cost_at, cost_gap, interpolated


@pytest.fixture
def curve():
    rng = np.random.default_rng(0)
    plain = np.ones(200)
    outcome = np.stack([rng.random(200) < p for p in (0.6, 0.1)]).astype(float)
    cost = np.stack([rng.exponential(s, 150) for s in (0.1, 1.0)])
    return Curve(outcome, cost, plain)


def test_cost_between_strengths_is_interpolated():
    reductions, costs = [1.0, 0.5], [3.0, 1.0]
    found = interpolated(reductions, costs, [0, 0.25, 0.5, 0.75, 1.0, 1.1])
    assert np.allclose(found[:5], [0, 0.5, 1, 2, 3]) and np.isnan(found[5])
    assert interpolated(reductions, costs, 0.75) == 2.0
    alone = pd.Series(
        {"reached": interpolated([0.9], [1.0], 0.75), "not": interpolated([0.5], [0.1], 0.75)}
    )
    assert alone.dropna().idxmin() == "reached"
    wanted = [
        np.interp(0.6, [0, *sorted(r)], [0, *np.array(c)[np.argsort(r)]])
        for r, c in (([0.9, 0.4], [2, 1]), ([0.7, 0.8], [5, 6]))
    ]
    both = interpolated([[0.9, 0.4], [0.7, 0.8]], [[2, 1], [5, 6]], [0.6])
    assert np.allclose(both[:, 0], wanted)


def test_a_point_that_reduces_more_for_less_takes_the_place_of_a_dearer_one():
    assert interpolated([0.7, 0.7, 0.8], [1.0, 9.0, 3.0], 0.75) == pytest.approx(2.0)
    assert interpolated([0.6, 0.9, 0.95], [1.0, 8.0, 2.0], 0.75) == pytest.approx(1.5)
    rows = interpolated([[0.7, 0.8], [0.7, 0.8]], [[9, 3], [1, 3]], 0.75)
    assert rows == pytest.approx([3, 2])


def test_cost_at_equal_reduction_has_an_interval_that_holds_it(curve):
    half = cost_at(curve, 0.5)
    reductions = 1 - curve.outcome.mean(1)
    assert half.value == pytest.approx(interpolated(reductions, curve.cost.mean(1), 0.5))
    assert half.low < half.value < half.high and half.n == half.groups == 150
    assert curve.costs([0.5, 0.999]) == pytest.approx([half.value, np.nan], nan_ok=True)
    never = cost_at(curve, 0.999)
    assert np.isnan(never.value) and curve.reached() == pytest.approx(reductions.max())


def test_gap_is_paired(curve):
    same = cost_gap(curve, curve, 0.5)
    assert same[:3] == (0, 0, 0)
    dearer = Curve(curve.outcome, curve.cost + 0.2, curve.plain)
    gap = cost_gap(dearer, curve, 0.5)
    assert gap.low > 0 and gap.high - gap.low < 0.1, "the noise of the prompts cancels"
    short = Curve(curve.outcome, curve.cost[:, :9], curve.plain)
    with pytest.raises(ValueError, match="different prompts"):
        cost_gap(curve, short, 0.5)


def test_groups_are_drawn_as_a_whole(curve):
    cost = np.repeat(np.random.default_rng(1).exponential(1, (2, 30)), 5, axis=1)
    alone = Curve(curve.outcome, cost, curve.plain)
    own, alike = [f"harmful {i}" for i in range(200)], [f"harmless {i // 5}" for i in range(150)]
    grouped = alone._replace(groups=(own, alike))
    found = [cost_at(c, 0.5) for c in (alone, grouped)]
    widths = [e.high - e.low for e in found]
    assert widths[1] > 1.5 * widths[0] and found[0].value == found[1].value
    assert found[1].groups == 30


def test_frames_and_words_cross_and_the_fewer_count(curve):
    groups = [[f"frame {i % 9}|word {i % 31}" for i in range(n)] for n in (200, 150)]
    found = cost_at(curve._replace(groups=tuple(groups)), 0.5)
    assert found.groups == 9 and found.low < found.value < found.high
    one = cost_at(curve._replace(groups=(["same"] * 200, ["same"] * 150)), 0.5)
    assert one.groups == 1 and np.isfinite(one.value) and np.isnan(one.low)


def test_a_family_of_gaps_has_wider_intervals(curve):
    other = Curve(curve.outcome, curve.cost[:, ::-1], curve.plain)
    one, four = (cost_gap(curve, other, 0.5, family=n) for n in (1, 4))
    assert four.low < one.low < one.value < one.high < four.high and four.family == 4


def test_the_interval_covers_the_true_cost():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(60):
        plain = np.ones(60)
        outcome = (rng.random((1, 60)) < 0.4).astype(float)
        found = cost_at(Curve(outcome, rng.exponential(1, (1, 40)), plain), 0.3)
        hits += found.low <= 0.5 <= found.high
    assert hits >= 53


def test_a_reduction_that_many_draws_miss_has_no_interval(curve):
    edge = float(curve.reached())
    found = cost_at(curve, edge)
    assert np.isfinite(found.value) and np.isnan(found.low) and np.isnan(found.high)


def test_many_groups_of_one_kind_do_not_make_up_for_few_of_the_other(monkeypatch):
    rng = np.random.default_rng(0)
    labels = [f"f{i % 8}" for i in range(80)], [f"p{i}" for i in range(300)]
    plain = np.ones(80)
    outcome = np.array([rng.random(80) < share for share in (0.6, 0.3, 0.1)], float)
    curves = [
        Curve(outcome, rng.random((3, 300)) * [[1], [2], [3]], plain, labels) for _ in range(2)
    ]
    found = cost_gap(*curves, 0.5)
    before = tradeoff._bootstrapped
    monkeypatch.setattr(tradeoff, "_bootstrapped", lambda *given: before(*given[:5]))
    narrow = cost_gap(*curves, 0.5)  # as if 308 groups had drawn it
    assert found.groups == narrow.groups == 8
    assert found.low < narrow.low and found.high > narrow.high
    # t of 7 degrees of freedom, and 8 / 7 for the spread of few, in place of those of 307.
    assert 1.1 < (found.high - found.low) / (narrow.high - narrow.low) < 1.5
