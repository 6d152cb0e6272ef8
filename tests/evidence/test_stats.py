"""Intervals against their definitions, and against what they promise: 95 % coverage."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from qs_helpers.evidence import stats


def test_share_is_the_wilson_interval():
    found = stats.share(45, 50)
    z, p, n = 1.959963984540054, 0.9, 50
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert found.value == 0.9 and found.n == 50
    assert found.interval == pytest.approx((middle - half, middle + half), abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (20, 20)])
def test_share_at_the_edges_stays_inside(hits, n):
    found = stats.share(hits, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.05  # none of twenty is not certainty


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_share_refuses_impossible_counts(hits, n):
    with pytest.raises(ValueError, match=f"{hits} hits in {n} trials"):
        stats.share(hits, n)


def test_ratio_is_the_ratio_of_sums_and_not_the_mean_of_ratios():
    found = stats.ratio([1.0, 9.0], [1.0, 3.0])
    assert found.value == 2.5 and found.n == 2
    assert found.low == 1.0 and found.high == 3.0


def test_units_are_drawn_whole():
    # Within a text all tokens agree: a thousand tokens in ten texts are ten observations.
    g = torch.Generator().manual_seed(0)
    texts = torch.randn(10, generator=g).repeat_interleave(100)
    owner = torch.arange(10).repeat_interleave(100)
    clustered, naive = stats.mean(texts, owner), stats.mean(texts)
    assert clustered.n == 10 and naive.n == 1000
    width = clustered.high - clustered.low
    assert width > 5 * (naive.high - naive.low)


def test_the_interval_of_a_mean_covers_the_truth_about_95_times_of_100():
    g = torch.Generator().manual_seed(1)
    draws = (torch.randn(60, generator=g) for _ in range(300))
    covered = sum(m.low <= 0 <= m.high for m in map(stats.mean, draws))
    assert 270 <= covered <= 298


def test_the_same_seed_gives_the_same_interval():
    values = torch.arange(30.0)
    assert stats.mean(values, seed=3) == stats.mean(values, seed=3)
    assert stats.mean(values, seed=3) != stats.mean(values, seed=4)


def test_ratio_refuses_what_has_no_interval():
    with pytest.raises(ValueError, match="1 unit gives no interval"):
        stats.mean([1.0, 2.0], [7, 7])
    with pytest.raises(ValueError, match="sums to 0"):
        stats.ratio([1.0, 2.0], [0.0, 0.0])
    with pytest.raises(ValueError, match="ratio got 2, 3 and 2 numbers"):
        stats.ratio([1.0, 2.0], [1.0, 1.0, 1.0])


def test_difference_is_paired():
    """Pairs that differ by a constant leave no doubt, however much the values vary."""
    g = torch.Generator().manual_seed(0)
    first = 100 * torch.randn(40, generator=g).double()
    found = stats.difference(first + 1, first)
    assert found.value == pytest.approx(1) and found.high - found.low < 1e-9 and found.n == 40
    with pytest.raises(ValueError, match="3 and 2 values do not make pairs"):
        stats.difference([1, 2, 3], [1, 2])


def test_sign_flips():
    assert stats.sign_flip_p([1.0] * 5) == pytest.approx(1 / 32)  # all 32 sign patterns
    assert stats.sign_flip_p([0.0] * 20) == 1
    assert stats.sign_flip_p([-1.0] * 30) == pytest.approx(1, abs=1e-3)
    # Under the null, p-values are not too small.
    g = torch.Generator().manual_seed(0)
    ps = [stats.sign_flip_p(torch.randn(12, generator=g), seed) for seed in range(100)]
    assert sum(p < 0.1 for p in ps) < 22


def test_rank_among_controls():
    assert stats.rank_p(3, [1, 2]) == pytest.approx(1 / 3)
    assert stats.rank_p(2, [1, 2]) == pytest.approx(2 / 3)  # a tie counts against
    assert stats.rank_p(0, [1, 2]) == 1
    with pytest.raises(ValueError, match="at least one control"):
        stats.rank_p(1, [])


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="no statsmodels here")
    g = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 30):
        p = torch.rand(n, generator=g).numpy() ** 3
        assert stats.holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_crossing_interpolates():
    doses, outcomes = [-1.0, 0.0, 1.0, 2.0], [[0] * 4, [0] * 4, [1, 1, 0, 0], [1] * 4]
    found = stats.crossing(doses, outcomes, 0.25)
    assert found.value == pytest.approx(0.5) and found.n == 4
    assert found.low <= found.value <= found.high
    assert stats.crossing(doses, outcomes, 1.0).value == 2
    assert stats.crossing(doses, outcomes, 0.0).value == -1  # there from the start
    assert stats.crossing(doses, outcomes, 1.1).value == float("inf")
    down = stats.crossing(doses, [[1] * 4, [1] * 4, [1, 1, 0, 0], [0] * 4], 0.75, falling=True)
    assert down.value == pytest.approx(0.5)


def test_crossing_intervals_cover():
    """A logistic dose curve whose half is at 0.5: the interval holds it in most of 60 runs."""
    g = torch.Generator().manual_seed(0)
    doses = torch.linspace(0, 1, 11)
    inside = 0
    for seed in range(60):
        start = 0.5 + 0.15 * torch.randn(50, generator=g)  # each prompt has a threshold of its own
        found = stats.crossing(doses, (doses[:, None] >= start).double(), 0.5, seed=seed)
        inside += found.low - 0.05 <= 0.5 <= found.high + 0.05
    assert inside >= 54


@pytest.mark.parametrize(
    ("doses", "outcomes"),
    [
        ([0, 1], [[1, 0]]),
        ([1, 0], [[1], [0]]),
        ([0, 1], [1, 0]),
    ],
)
def test_crossing_refuses_what_is_no_curve(doses, outcomes):
    with pytest.raises(ValueError, match="rising doses"):
        stats.crossing(doses, outcomes, 0.5)


def test_auroc_is_sklearns_with_an_interval():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 200), rng.random(200) < 0.4  # many ties
    scores = scores + labels
    found = stats.auroc(scores, labels)
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.low < found.value < found.high and found.n == 200


def test_the_interval_of_an_auroc_covers():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(60):
        scores = np.concatenate([rng.normal(1, 1, 40), rng.normal(0, 1, 40)])
        found = stats.auroc(scores, np.repeat([True, False], 40))
        hits += found.low <= 0.7602 <= found.high  # Phi(1 / sqrt 2)
    assert hits >= 52


def test_an_auroc_of_one_kind_of_label_is_refused():
    with pytest.raises(ValueError, match="one kind is missing"):
        stats.auroc([1, 2], [True, True])
