"""Estimates against their definitions, written as plain loops."""

import warnings
from math import inf, nan, sqrt
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta, binomtest, norm, t
from sklearn.metrics import f1_score, roc_auc_score

from qs_helpers.evidence import stats
from qs_helpers.evidence.stats import Estimate

# ---- references


def sums_over(parts, labels) -> dict:
    found = {}
    for part, label in zip(parts, labels, strict=True):
        found[label] = found.get(label, 0.0) + part
    return found


def variance_over(parts, labels, sides) -> float:
    """Squares of the sums of groups; of a group with share w of the samples over 1 - 2w + Σw²."""
    total = 0.0
    for name, x in sums_over(parts, labels).items():
        rests = []
        for side in sides:
            mine = [label for label, inside in zip(labels, side, strict=True) if inside]
            shares = {label: mine.count(label) / len(mine) for label in mine}
            rests.append(1 - 2 * shares.get(name, 0) + sum(w * w for w in shares.values()))
        total += x * x / min(rests)
    return total


def naive_variance(parts, groups, sides=None) -> float:
    """Over groups, or over both factors of "a|b" (Cameron, Gelbach and Miller 2011)."""
    every = [[True] * len(groups)]
    if not all(label.count("|") == 1 for label in groups):
        return variance_over(parts, groups, sides or every)
    one = variance_over(parts, [label.split("|")[0] for label in groups], sides or every)
    two = variance_over(parts, [label.split("|")[1] for label in groups], sides or every)
    return max(one + two - variance_over(parts, groups, every), one, two)


def naive_interval(value, parts, groups, family=1, most=inf, sides=None):
    """Clopper-Pearson with an effective n, as the module's docstring has it; and that n."""
    crossed = all(label.count("|") == 1 for label in groups)
    ways = [[label.split("|")[i] for label in groups] for i in (0, 1)] if crossed else [groups]
    count, least = inf, inf
    for labels in ways:
        for side in sides or [[True] * len(groups)]:
            mine = [label for label, inside in zip(labels, side, strict=True) if inside]
            sizes = sums_over([1] * len(mine), mine).values()
            count = min(count, len(sizes))
            least = min(least, len(sizes), len(mine) ** 2 / sum(size * size for size in sizes))
    freedom = inf
    for labels in ways:
        squares = [x * x for x in sums_over(parts, labels).values()]
        if sum(squares):
            freedom = min(freedom, 2 * sum(squares) ** 2 / sum(x * x for x in squares))
    freedom = min(max(freedom, min(3, count - 1)), count - 1) if count > 1 else 1
    tail = 0.05 / family / 2
    if value in (0, 1):
        n = least
    else:
        shrink = norm.isf(tail) / t.isf(tail, freedom)
        n = value * (1 - value) / naive_variance(parts, groups, sides) * shrink**2
        n = min(max(n, least), max(most, least))
    low = beta.ppf(tail, value * n, (1 - value) * n + 1) if value > 0 else 0.0
    high = beta.isf(tail, value * n + 1, (1 - value) * n) if value < 1 else 1.0
    return low, high, n


def naive_area(scores, positive) -> float:
    wins = pairs = 0
    for a, yes in zip(scores, positive, strict=True):
        for b, other in zip(scores, positive, strict=True):
            if yes and not other:
                pairs += 1
                wins += 1 if a > b else 0.5 if a == b else 0
    return wins / pairs


def naive_f1(flagged, positive) -> float:
    hits = flags = truths = 0
    for flag, truth in zip(flagged, positive, strict=True):
        hits, flags, truths = hits + (flag and truth), flags + bool(flag), truths + bool(truth)
    return 2 * hits / (flags + truths)


def naive_draws(groups, draws):
    """Samples of each bootstrap draw: whole groups, as often as they were drawn."""
    names = sorted(set(groups))
    counts = np.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), draws)
    for row in counts:
        times = dict(zip(names, row, strict=True))
        yield [i for i, group in enumerate(groups) for _ in range(times[group])]


def naive_percentiles(found, size, family=1):
    tail = norm.cdf(sqrt(size / (size - 1)) * t.ppf(0.025 / family, size - 1))
    return np.quantile(found, [tail, 1 - tail])


def clustered(rng, groups=12, each=5, crossed=False):
    """Labels of unlike groups, and yes or no that are alike in a group."""
    labels, hits = [], []
    for group in range(groups):
        rate = rng.beta(4, 1)
        for item in range(each if crossed else 1 + rng.integers(2 * each)):
            labels.append(f"{group}|{item}" if crossed else f"g{group}")
            hits.append(bool(rng.random() < rate))
    return np.array(hits), labels


# ---- shares


@pytest.mark.parametrize("family", [1, 2, 5])
@pytest.mark.parametrize(("hits", "n"), [(0, 8), (1, 9), (45, 50), (50, 50), (97, 200)])
def test_one_yes_or_no_a_group_is_clopper_pearson(hits, n, family):
    found = stats.share([1] * hits + [0] * (n - hits), None, family)
    exact = binomtest(hits, n).proportion_ci(1 - 0.05 / family, "exact")
    assert found.interval == pytest.approx(tuple(exact), abs=1e-12)
    assert found[3:] == (n, n, family, n) and found.value == hits / n
    assert found == stats.share([1] * hits + [0] * (n - hits), range(n), family)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 20), (10, 20), (45, 50), (100, 100)])
def test_it_is_near_wilson_and_no_narrower(hits, n):
    found = stats.share([1] * hits + [0] * (n - hits))
    wilson = binomtest(hits, n).proportion_ci(0.95, "wilson")
    assert found.interval == pytest.approx(tuple(wilson), abs=1 / n)
    assert found.high - found.low >= 0.97 * (wilson.high - wilson.low)


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("family", [1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_a_share_of_groups_by_loops(seed, family, crossed):
    hits, labels = clustered(np.random.default_rng(seed), 6 + 3 * seed, crossed=crossed)
    found = stats.share(hits, labels, family)
    parts = [(hit - hits.mean()) / len(hits) for hit in hits]
    low, high, n = naive_interval(hits.mean(), parts, labels, family, most=len(hits))
    assert found.effective == pytest.approx(n) and found.interval == pytest.approx((low, high))
    count = min(6 + 3 * seed, 5) if crossed else 6 + 3 * seed
    assert found.n == len(hits) and found.groups == count and found.family == family


def test_the_order_of_samples_and_the_names_of_groups_do_not_matter():
    hits, labels = clustered(np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(len(hits))
    renamed = [f"text {label}" for label in np.array(labels)[order]]
    again = stats.share(torch.tensor(hits)[torch.tensor(order)], renamed)
    assert again == pytest.approx(stats.share(hits, labels))


def test_effective_n_is_between_the_groups_and_the_samples():
    same = np.repeat([1] * 9 + [0], 20)  # within a group all alike: as many as there are groups
    found = stats.share(same, np.repeat(range(10), 20))
    assert found.effective == pytest.approx(10) and found.groups == 10 and found.n == 200
    assert found.interval == pytest.approx(tuple(binomtest(9, 10).proportion_ci()))
    unlike = np.repeat(range(10), [1] * 9 + [91])  # one group has nearly all samples
    assert stats.share([1] * 100, unlike).effective == pytest.approx(100**2 / (91**2 + 9))


@pytest.mark.parametrize("value", [0, 1])
def test_all_alike_has_width(value):
    found = stats.share([value] * 100, np.repeat(range(10), 10))
    assert found.interval == pytest.approx(tuple(binomtest(10 * value, 10).proportion_ci()))
    assert found.high - found.low > 0.3


@pytest.mark.parametrize("crossed", [False, True])
def test_groups_that_are_all_alike_and_neither_0_nor_1_have_width(crossed):
    labels = [f"{i}|{j}" for i in range(10) for j in range(10)]
    labels = labels if crossed else [label.split("|")[0] for label in labels]
    found = stats.share([(i + i // 10) % 2 for i in range(100)], labels)
    assert found.value == 0.5 and found.low < 0.4 and found.high > 0.6


def test_numbers_from_0_to_1_are_shares_too():
    rng = np.random.default_rng(0)
    values, labels = rng.random(60), [f"g{i // 3}" for i in range(60)]
    parts = [(x - values.mean()) / 60 for x in values]
    low, high, n = naive_interval(values.mean(), parts, labels)
    found = stats.share(values, labels)
    assert found.interval == pytest.approx((low, high)) and found.effective == pytest.approx(n)
    assert n > 60  # they vary less than yes and no


# ---- F1 and AUROC


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_sklearns_with_the_interval_of_the_share_j(seed):
    rng = np.random.default_rng(seed)
    positive, labels = clustered(rng)
    flagged = positive ^ (rng.random(len(positive)) < 0.2)
    found = stats.f1(flagged, positive, labels, 2)
    assert found.value == pytest.approx(f1_score(positive, flagged), abs=1e-9)
    assert found.value == pytest.approx(naive_f1(flagged, positive), abs=1e-9)
    kept = [i for i in range(len(labels)) if flagged[i] or positive[i]]
    hits = [float(flagged[i] and positive[i]) for i in kept]
    j = sum(hits) / len(hits)
    parts, names = [(hit - j) / len(hits) for hit in hits], [labels[i] for i in kept]
    low, high, _ = naive_interval(j, parts, names, 2, most=len(hits))
    assert found.interval == pytest.approx((2 * low / (1 + low), 2 * high / (1 + high)))
    assert (found.n, found.groups) == (len(labels), len(set(names)))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_sklearns_with_the_variance_of_placements(seed, grouped):
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.4
    scores = rng.integers(0, 6, 60) + 2 * positive  # many ties
    labels = [f"g{i // 4 if grouped else i}" for i in range(60)]
    found = stats.auroc(scores, positive, labels if grouped else None, 2)
    assert found.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-9)
    assert found.value == pytest.approx(naive_area(scores, positive), abs=1e-9)
    parts = []
    for i in range(60):
        others = [k for k in range(60) if positive[k] != positive[i]]
        beaten = sum((scores[i] > scores[k]) + 0.5 * (scores[i] == scores[k]) for k in others)
        placed = beaten / len(others) if positive[i] else 1 - beaten / len(others)
        parts.append((placed - found.value) / sum(p == positive[i] for p in positive))
    sides = [list(positive), list(~positive)]
    fewest = min(len({labels[i] for i in range(60) if side[i]}) for side in sides)
    low, high, n = naive_interval(found.value, parts, labels, 2, 60, sides)
    assert found.effective == pytest.approx(n) and found.interval == pytest.approx((low, high))
    assert (found.n, found.groups, found.family) == (60, fewest, 2)
    if not grouped:  # DeLong, DeLong and Clarke-Pearson (1988)
        delong = 0.0
        for side in (True, False):
            placed = [parts[i] * sum(positive == side) for i in range(60) if positive[i] == side]
            delong += np.var(placed, ddof=1) / len(placed)
        assert naive_variance(parts, labels, sides) == pytest.approx(delong)


def test_a_perfect_auroc_has_the_width_of_the_rarer_label():
    found = stats.auroc(range(40), [i >= 30 for i in range(40)])
    assert found.value == 1 and found.groups == 10
    assert found.interval == pytest.approx(tuple(binomtest(10, 10).proportion_ci()))


# ---- means and ratios


def test_bootstrap_weights_draw_whole_groups():
    codes = np.array([0, 0, 1, 2, 2, 2, 3])
    weights = stats._weights(codes, 1)
    assert weights.shape == (stats.DRAWS, 7) and len(stats._weights(codes, 9)) == 5 * stats.DRAWS
    for row, drawn in zip(weights[:100], naive_draws(codes, stats.DRAWS), strict=False):
        assert [drawn.count(i) for i in range(7)] == row.tolist()
        assert row[0] == row[1] and row[3] == row[4] == row[5]
        assert row[0] + row[2] + row[3] + row[6] == 4


@pytest.mark.parametrize("family", [1, 3])
def test_ratio_and_mean_by_loops(monkeypatch, family):
    monkeypatch.setattr(stats, "DRAWS", 60)
    rng = np.random.default_rng(0)
    top, bottom = rng.gamma(2, size=30), rng.gamma(3, size=30)
    labels = [f"g{i // 3}" for i in range(30)]
    for below, make in ((bottom, stats.ratio), (np.ones(30), lambda a, _, *k: stats.mean(a, *k))):
        found = make(top, below, labels, family)
        drawn = [
            sum(top[i] for i in draw) / sum(below[i] for i in draw)
            for draw in naive_draws(labels, 60 * family)
        ]
        assert found.interval == pytest.approx(tuple(naive_percentiles(drawn, 10, family)))
        assert found.value == pytest.approx(sum(top) / sum(below))
        assert found[3:] == (30, 10, family, None)


def test_ratio_is_the_ratio_of_sums_and_not_the_mean_of_ratios():
    assert stats.ratio([1.0, 9.0], [1.0, 3.0]).value == 2.5


def test_two_factors_take_the_wider_way_and_the_variance_of_both(monkeypatch):
    monkeypatch.setattr(stats, "DRAWS", 80)
    rng = np.random.default_rng(3)
    values = rng.normal(size=(9, 1)) + rng.normal(size=(1, 7)) + rng.normal(size=(9, 7)) / 2
    values = values.ravel()
    labels = [f"{i}|{j}" for i in range(9) for j in range(7)]
    found = stats.mean(values, labels)
    ways = [[label.split("|")[k] for label in labels] for k in (0, 1)] + [labels]
    # The cells are numbered by their factors, as sorted names are.
    drawn = [[values[d].mean() for d in naive_draws(way, 80)] for way in ways]
    spreads = [np.var(d) for d in drawn]
    ends = [naive_percentiles(d, len(set(way))) for d, way in zip(drawn[:2], ways[:2], strict=True)]
    wide = 0 if np.diff(ends[0]) > np.diff(ends[1]) else 1
    both = max(spreads[0] + spreads[1] - spreads[2], spreads[0], spreads[1])
    stretch = sqrt(both / spreads[wide])
    low, high = (found.value + stretch * (end - found.value) for end in ends[wide])
    assert found.interval == pytest.approx((low, high)) and found.groups == 7 and stretch > 1


def test_units_are_drawn_whole():
    # Within a text all tokens agree: a thousand tokens in ten texts are ten observations.
    g = torch.Generator().manual_seed(0)
    texts = torch.randn(10, generator=g).repeat_interleave(100)
    owner = torch.arange(10).repeat_interleave(100)
    clustered_, naive = stats.mean(texts, owner), stats.mean(texts)
    assert (clustered_.groups, naive.groups) == (10, 1000) and clustered_.n == naive.n == 1000
    assert clustered_.high - clustered_.low > 5 * (naive.high - naive.low)
    assert clustered_ == stats.mean(texts, owner)  # the same numbers each time


def test_difference_is_paired():
    """Pairs that differ by a constant leave no doubt, however much the values vary."""
    first = 100 * np.random.default_rng(0).normal(size=40)
    found = stats.difference(first + 1, first)
    assert found.value == pytest.approx(1) and found.high - found.low < 1e-9 and found.n == 40


def naive_correlation(first, second, labels) -> float:
    """Of what the groups contribute to two means."""
    means = sum(map(float, first)) / len(first), sum(map(float, second)) / len(second)
    one = list(sums_over([float(a) - means[0] for a in first], labels).values())
    other = list(sums_over([float(b) - means[1] for b in second], labels).values())
    size = (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5
    return sum(a * b for a, b in zip(one, other, strict=True)) / size if size else 0.0


@pytest.mark.parametrize("second", ["yes or no", "share", "the same", "all"])
def test_difference_of_yes_and_no_adds_the_squares_of_two_intervals(second):
    rng = np.random.default_rng(0)
    first, labels = clustered(rng)
    drawn = rng.random(len(first))
    other = {"yes or no": drawn < 0.3, "share": drawn, "the same": first, "all": drawn < 2}[second]
    found = stats.difference(first, other, labels)
    one, two = stats.share(first, labels), stats.share(other, labels)
    alike = min(naive_correlation(first, other, labels), 0.8)
    down, up = one.value - one.low, two.high - two.value
    low = one.value - two.value - (down**2 + up**2 - 2 * alike * down * up) ** 0.5
    up, down = one.high - one.value, two.value - two.low
    high = one.value - two.value + (up**2 + down**2 - 2 * alike * up * down) ** 0.5
    assert found.value == pytest.approx(one.value - two.value) and found.effective is None
    assert found.interval == pytest.approx((low, high)) and low < found.value < high


def test_of_two_factors_the_lower_correlation_counts():
    rng = np.random.default_rng(1)
    labels = [f"{a}|{b}" for a in range(8) for b in range(8)]
    first, other = rng.random(64) < 0.6, rng.random(64) < 0.5
    wide = stats.difference(first, other, labels)
    ways = [naive_correlation(first, other, [x.split("|")[i] for x in labels]) for i in (0, 1)]
    one, two = stats.share(first, labels), stats.share(other, labels)
    down, up = one.value - one.low, two.high - two.value
    reach = (down**2 + up**2 - 2 * min(*ways, 0.8) * down * up) ** 0.5
    assert wide.low == pytest.approx(wide.value - reach)


def test_one_group_has_no_interval():
    for labels in ([7, 7], ["a|x", "a|y"]):
        found = stats.mean([1, 2], labels)
        assert found.value == 1.5 and np.isnan(found.interval).all() and found.groups == 1


def test_a_difference_of_nothing_and_of_everything_has_width():
    labels = np.repeat(range(10), 3)
    for first, second in ((1, 0), (0, 1), (1, 1), (0, 0)):
        found = stats.difference([first] * 30, [second] * 30, labels)
        assert found.value == first - second and found.low <= found.value <= found.high
        assert found.high - found.low > 0.1


# ---- null draws


def loops_against(statistic, values, nulls, labels, draws):
    """Of each draw of groups: the statistic of the effect less that of the mean null draw."""
    found = []
    for draw in naive_draws(labels, draws):
        chance = [statistic(null, draw) for null in nulls]
        found.append(statistic(values, draw) - sum(chance) / len(chance))
    return found


@pytest.mark.parametrize("by", ["f1", "auroc"])
def test_against_by_loops(monkeypatch, by):
    monkeypatch.setattr(stats, "DRAWS", 40)
    rng = np.random.default_rng(0)
    positive = rng.random(24) < 0.5
    labels = [f"g{i // 3}" for i in range(24)]
    values, nulls = positive + rng.normal(size=24), rng.normal(size=(3, 24))
    if by == "f1":
        values, nulls = values > 0.5, nulls > 0
    plain = {"f1": naive_f1, "auroc": naive_area}[by]

    def statistic(scores, draw):
        return plain([scores[i] for i in draw], [positive[i] for i in draw])

    found = stats.against(values, nulls, positive, labels, by=by)
    every = list(range(24))
    assert found.value == pytest.approx(statistic(values, every))
    assert found.draws == pytest.approx([statistic(null, every) for null in nulls])
    drawn = loops_against(statistic, values, nulls, labels, 40)
    # Never told more closely than the effect itself.
    own = {"f1": stats.f1, "auroc": stats.auroc}[by](values, positive, labels)
    gap, (low, high) = found.difference, naive_percentiles(drawn, 8)
    assert gap.value == pytest.approx(found.value - np.mean(found.draws))
    wide = gap.value - own.value + own.low, gap.value - own.value + own.high
    assert gap.interval == pytest.approx((min(low, wide[0]), max(high, wide[1])))
    assert gap[3:] == (24, 8, 1, None)
    # One rival is paired with the effect, and has the percentiles alone.
    alone = stats.against(values, nulls[:1], positive, labels, by=by).difference
    drawn = loops_against(statistic, values, nulls[:1], labels, 40)
    assert alone.interval == pytest.approx(tuple(naive_percentiles(drawn, 8)))


@pytest.mark.parametrize("by", ["f1", "auroc"])
def test_beside_noise_an_effect_is_as_uncertain_as_by_itself(by):
    """One of twelve groups brings the only error: a third of all redraws have none."""
    rng, positive = np.random.default_rng(0), np.arange(120) % 2 == 0
    labels, noise = np.arange(120) // 10, rng.random((20, 120))
    right = positive.astype(float)
    wrong = np.where(np.arange(120) == 0, -1.0, right)
    scores = (right, wrong) if by == "auroc" else (right > 0, wrong > 0)
    nulls = noise if by == "auroc" else noise < 0.5
    for score in scores:
        own = {"f1": stats.f1, "auroc": stats.auroc}[by](score, positive, labels)
        gap = stats.against(score, nulls, positive, labels, by=by).difference
        assert own.value > 0.97 and own.value - own.low > 0.08
        assert gap.value - gap.low >= own.value - own.low - 1e-12


def test_a_ratio_counts_the_groups_that_say_something():
    top, bottom = np.zeros(60), np.zeros(60)
    top[:9], bottom[:9] = [1, 0, 2, 0, 1, 0, 0, 2, 0], [4, 5, 6, 4, 5, 6, 4, 5, 6]
    labels = np.arange(60) // 3  # 20 groups, and three of them have anything
    found, alone = stats.ratio(top, bottom, labels), stats.ratio(top[:9], bottom[:9], labels[:9])
    assert found.groups == alone.groups == 3 and (found.n, alone.n) == (60, 9)
    assert found[:3] == alone[:3]
    assert stats.mean(top, labels).groups == 20  # a mean is one of all


def test_numbers_may_be_bfloat16():
    assert stats.share(torch.tensor([1.0, 0.0], dtype=torch.bfloat16)).value == 0.5


def test_f1_has_no_effective_number_of_its_own():
    flags = np.arange(40) % 2 == 0
    assert stats.f1(flags, np.arange(40) % 4 == 0).effective is None


@pytest.mark.parametrize("by", ["f1", "auroc"])
def test_an_effect_without_an_error_is_as_uncertain_as_its_own_interval(by):
    """Redrawing groups cannot make an error that no group has; more groups might."""
    rng, positive = np.random.default_rng(0), np.arange(60) % 2 == 0
    labels = np.arange(60) // 5
    right, noise = (
        (positive, rng.random(60) < 0.5) if by == "f1" else (positive + 0.0, rng.random(60))
    )
    own = {"f1": stats.f1, "auroc": stats.auroc}[by](right, positive, labels)
    assert own.value == 1 and own.low < 0.9
    found = stats.against(right, [noise], positive, labels, by=by).difference
    least = found.value - (1 - own.low)  # were the noise's value known
    assert found.low < least and found.high < found.value + 0.35
    turned = stats.against(noise, [right], positive, labels, by=by).difference
    assert turned.interval == pytest.approx((-found.high, -found.low))


def test_against_means_by_loops(monkeypatch):
    monkeypatch.setattr(stats, "DRAWS", 40)
    rng = np.random.default_rng(0)
    values, nulls = rng.normal(1, 1, 24), rng.normal(size=(3, 24))
    labels = [f"g{i // 3}" for i in range(24)]
    found = stats.against(values, nulls, None, labels)
    drawn = loops_against(
        lambda x, draw: sum(x[i] for i in draw) / len(draw), values, nulls, labels, 40
    )
    assert found.difference.interval == pytest.approx(tuple(naive_percentiles(drawn, 8)))
    assert found.value == pytest.approx(values.mean())
    assert found.draws == pytest.approx([null.mean() for null in nulls])


def test_against_of_yes_and_no_is_their_difference():
    rng = np.random.default_rng(0)
    hits, nulls = rng.random(30) < 0.9, rng.random((19, 30)) < 0.2
    labels = np.arange(30) // 3
    found = stats.against(hits, nulls, groups=labels, family=2)
    assert found.difference == stats.difference(hits, nulls.mean(0), labels, 2)
    assert found.value == hits.mean() and found.draws.tolist() == nulls.mean(1).tolist()


# ---- families


@pytest.mark.parametrize("m", [2, 5, 10])
def test_an_interval_of_a_family_has_its_level(monkeypatch, m):
    rng = np.random.default_rng(0)
    hits, labels = clustered(rng)
    scores = hits + rng.normal(size=len(hits))
    calls = {
        "share": lambda f: stats.share(hits, labels, f),
        "f1": lambda f: stats.f1(scores > 0.5, hits, labels, f),
        "auroc": lambda f: stats.auroc(scores, hits, labels, f),
        "difference": lambda f: stats.difference(hits, scores > 0.5, labels, f),
        "mean": lambda f: stats.mean(scores, labels, f),
        "ratio": lambda f: stats.ratio(scores, 1.0 + hits, labels, f),
        "against": lambda f: stats.against(scores, [scores / 2], None, labels, f).difference,
    }
    together = {name: call(m) for name, call in calls.items()}
    alone = {name: call(1) for name, call in calls.items()}
    monkeypatch.setattr(stats, "LEVEL", 0.05 / m)
    monkeypatch.setattr(stats, "DRAWS", stats.DRAWS * min(m, 5))
    for name, call in calls.items():
        assert together[name].interval == pytest.approx(call(1).interval), name
        assert together[name].family == m
        assert together[name].low < alone[name].low and together[name].high > alone[name].high


# ---- how many groups


def test_groups_needed_by_the_usual_formula():
    # One-sample test of a proportion, .9 against .75, two-sided 5 %, power 80 %.
    at_edge, here = norm.isf(0.025) * sqrt(0.75 * 0.25), norm.ppf(0.8) * sqrt(0.9 * 0.1)
    wanted = np.ceil(((at_edge + here) / 0.15) ** 2)
    found = stats.share([1] * 45 + [0] * 5)
    assert stats.groups_needed(found, above=0.75) == wanted
    mirrored = stats.share([1] * 5 + [0] * 45)
    assert stats.groups_needed(mirrored, below=0.25) == wanted


@pytest.mark.parametrize("kind", ["share", "mean"])
def test_groups_needed_rises_with_what_is_asked(kind):
    rng = np.random.default_rng(0)
    if kind == "share":
        made = [stats.share(np.repeat([1, 0], [k, 100 - k])) for k in (95, 90, 85, 80)]
        family = [stats.share(np.repeat([1, 0], [85, 15]), None, m) for m in (1, 2, 5, 20)]
    else:
        noise = rng.normal(size=60)
        made = [stats.mean(noise - noise.mean() + x) for x in (2.0, 1.5, 1.0, 0.9)]
        family = [stats.mean(noise - noise.mean() + 1, None, m) for m in (1, 2, 5, 20)]
    needed = [stats.groups_needed(e, above=0.75) for e in made]
    assert needed == sorted(needed) and needed[0] < needed[-1]
    by_power = [stats.groups_needed(made[2], above=0.75, power=p) for p in (0.5, 0.8, 0.9, 0.99)]
    assert by_power == sorted(set(by_power))
    by_family = [stats.groups_needed(e, above=0.75) for e in family]
    assert by_family == sorted(by_family) and by_family[0] < by_family[-1]


@pytest.mark.parametrize("edge", [{"above": 0.9}, {"above": 0.95}, {"below": 0.9}])
def test_no_number_of_groups_helps_on_the_wrong_side(edge):
    assert stats.groups_needed(stats.share([1] * 18 + [0] * 2), **edge) == inf


def test_at_least_eight_groups_are_needed():
    assert stats.groups_needed(stats.share([1] * 50), above=0.1) == 8


@pytest.mark.long
@pytest.mark.parametrize("family", [1, 5])
@pytest.mark.parametrize("kind", ["share", "rare", "clustered", "mean", "difference", "auroc"])
def test_with_so_many_groups_about_80_in_100_are_shown(kind, family):
    rng = np.random.default_rng(0)

    def draw(groups):
        if kind in ("share", "rare"):
            rate = {"share": 0.8, "rare": 0.06}[kind]
            return stats.share(rng.random(groups) < rate, None, family)
        if kind == "clustered":
            rates = np.repeat(rng.beta(0.8 * 4, 0.2 * 4, groups), 5)  # correlation .2
            return stats.share(rng.random(5 * groups) < rates, np.arange(5 * groups) // 5, family)
        if kind == "mean":
            return stats.mean(rng.normal(0.5, 1, groups), None, family)
        if kind == "difference":
            return stats.difference(
                rng.random(groups) < 0.6, rng.random(groups) < 0.3, None, family
            )
        scores = np.concatenate([rng.normal(1, 1, groups), rng.normal(0, 1, groups)])
        labels = np.repeat([True, False], groups)
        return stats.auroc(scores, labels, np.tile(np.arange(groups), 2), family)

    edge = {
        **{"share": {"above": 0.65}, "rare": {"below": 0.15}, "clustered": {"above": 0.65}},
        **{"mean": {"above": 0.1}, "difference": {"above": 0.05}, "auroc": {"above": 0.65}},
    }[kind]
    # A pilot so large that it has the true value (an AUROC takes pairs, so fewer); then runs.
    groups = int(stats.groups_needed(draw(2000 if kind == "auroc" else 20_000), **edge))
    runs = [draw(groups) for _ in range(400)]
    shown = np.mean(
        [e.low > edge["above"] if "above" in edge else e.high < edge["below"] for e in runs]
    )
    # With five samples a group, where t is further from z, it is .69; the others have .72 to .87.
    assert 0.65 <= shown <= 0.9, (groups, shown)


# ---- what a review found


def test_a_text_without_a_second_part_does_not_undo_the_crossing():
    labels = [f"F{i % 4}|w{i % 16}" for i in range(80)]
    assert stats.share([1] * 80, labels).groups == 4
    alone = stats.share([1] * 81, [*labels, "text/abc"])
    assert alone.groups == 5 and alone.low < 0.6


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_group_with_most_samples_does_not_hide_how_unsure_the_value_is(share):
    """Truth .5, in 8 groups of which one holds much: the interval leaves it out seldom."""
    rng, out, runs = np.random.default_rng(0), 0, 400
    sizes = [round(share * 100), *[round((1 - share) * 100 / 7)] * 7]
    labels = np.repeat(range(8), sizes)
    for _ in range(runs):
        found = stats.share(rng.random(len(labels)) < rng.beta(1, 1, 8)[labels], labels)
        out += not found.low <= 0.5 <= found.high
    assert out / runs <= (0.07 if share == 0.5 else 0.1)  # of the samples of 1.2 equal groups


def test_scores_that_are_no_numbers_are_refused():
    for call in (
        lambda: stats.auroc([1, np.nan], [1, 0]),
        lambda: stats.f1([1, np.nan], [1, 0]),
        lambda: stats.against([1, 0], [[np.nan, 0]], [1, 0], by="auroc"),
    ):
        with pytest.raises(ValueError, match="are no numbers"):
            call()


def test_labels_of_minus_and_plus_one_mean_the_same_everywhere():
    labels, flags = [1, -1, 1, -1], [1, 0, 1, 1]
    assert stats.against(flags, [flags], labels, by="f1").value == stats.f1(flags, labels).value
    assert stats.against(flags, [flags], labels, by="auroc").draws == stats.auroc(flags, labels)[0]


# ---- groups


@pytest.mark.parametrize(
    ("labels", "codes"),
    [
        (None, [[0, 1, 2, 3]]),
        ([7, 7, 3, 7], [[1, 1, 0, 1]]),
        (["b", "a", "b", "c"], [[1, 0, 1, 2]]),
        (["a|x", "a|y", "b|x", "b|y"], [[0, 0, 1, 1], [0, 1, 0, 1]]),
        (["a|x", "c", "b|x", "b|y"], [[0, 2, 1, 1], [1, 0, 1, 2]]),  # c stands for itself
        (["a|x|1", "a|x|1", "b|x|1", "b|y|1"], [[0, 0, 1, 1], [0, 0, 0, 1]]),
    ],
)
def test_factors(labels, codes):
    found = stats.factors(labels, 4)
    assert [code.tolist() for code in found] == codes
    assert stats.n_groups(labels, 4) == min(max(code) + 1 for code in codes)
    as_array = None if labels is None else np.array(labels)
    assert [code.tolist() for code in stats.factors(as_array, 4)] == codes


def test_an_estimate_from_a_row_of_a_table():
    found = stats.share([1] * 9 + [0], None, 2)
    table = pd.DataFrame([{"arm": "a"} | found._asdict()])
    again = found._replace(effective=None)
    assert Estimate.of(table.iloc[0]) == again
    assert Estimate.of(next(table.itertuples())) == again
    assert found.interval == (found.low, found.high)


@pytest.mark.parametrize(
    "kind",
    [
        list,
        iter,
        lambda x: pd.Series(x, index=range(len(x))[::-1]),
        lambda x: pd.Series(x, index=list("abcdef")),
        lambda x: np.array(x, object),
        lambda x: torch.tensor(x, dtype=torch.float64),
    ],
)
def test_numbers_count_by_position_whatever_holds_them(kind):
    scores, positive = [0.1, 0.9, 0.4, 0.8, 0.3, 0.2], [0, 1, 0, 1, 1, 0]
    assert stats.auroc(kind(scores), kind(positive)) == stats.auroc(scores, positive)
    assert stats.auroc(kind(scores), kind(positive)).value == pytest.approx(8 / 9)
    assert stats.f1(kind(positive), kind(positive)).value == 1
    groups = [0, 0, 1, 1, 2, 2]
    assert stats.mean(kind(scores), kind(groups)) == stats.mean(scores, groups)


@pytest.mark.parametrize("yes", [True, 1, 1.0, np.int8(1)])
def test_labels_are_yes_or_no(yes):
    assert stats.yes_or_no("x", [yes, yes - 1]).tolist() == [True, False]
    assert stats.yes_or_no("x", [1, -1]).tolist() == [True, False]


# ---- errors


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s.share([]), "share needs hits: at least one, each yes or no, or from 0 to 1"),
        (lambda s: s.share([2]), "share needs hits"),
        (lambda s: s.share([-0.1, 1]), "share needs hits"),
        (lambda s: s.share([nan, 1]), "share needs hits"),
        (lambda s: s.share([1, 0, 1], ["a", "b"]), "2 groups for 3 samples; give one label"),
        (lambda s: s.f1([0, 0], [0, 0]), "f1: nothing is flagged or positive"),
        (lambda s: s.auroc([1, 2], [1, 1]), "auroc needs positive and negative samples; one kind"),
        (lambda s: s.auroc([1, 2], [0, 0]), "one kind is missing"),
        (lambda s: s.auroc([1, 2], [1, 0], [7]), "1 groups for 2 samples"),
        (lambda s: s.ratio([1, 2], [0, 0]), "ratio: the bottom sums to 0"),
        (
            lambda s: s.ratio([1, 2], [1, 1, 1]),
            "ratio got 2 top and 3 bottom; give as many of each",
        ),
        (lambda s: s.auroc([1, 2], [1, 0, 1]), "auroc got 2 scores and 3 positive"),
        (lambda s: s.f1([1, 0], [1]), "f1 got 2 flagged and 1 positive"),
        (lambda s: s.f1([1, 0], [1, 1], [7]), "1 groups for 2 samples"),
        (lambda s: s.against([1], [[1]], [1], by="auc"), "by='auc'; use mean, f1 or auroc"),
        (lambda s: s.against([1], [[1]], by="f1"), "f1 needs positive"),
        (lambda s: s.mean([1, 2], [1, 2, 3]), "3 groups for 2 samples"),
        (lambda s: s.difference([1, 2, 3], [1, 2]), "difference got 3 first and 2 second"),
        (lambda s: s.against([1, 2], [[1, 2, 3]]), "2 samples, but 3 in each null draw"),
        (lambda s: s.auroc([1, 2], ["toxic", "clean"]), r"got \['toxic', 'clean'\]"),
        (lambda s: s.auroc([1, 2], ["1", ""]), "positive must be numbers, or yes and no"),
        (lambda s: s.auroc([1, 2], [1, nan]), "1 of 2 positive are no numbers"),
        (lambda s: s.auroc([1, nan], [1, 0]), "1 of 2 scores are no numbers"),
        (lambda s: s.auroc([1, 2], [1, None]), "1 of 2 positive are no numbers"),
        (lambda s: s.auroc([1, 2], [0.9, 0.1]), "positive holds 0.9; give yes or no"),
        (lambda s: s.f1([1, 0, 1], [1, 0, 2]), "positive holds 2; give yes or no"),
        (lambda s: s.against([1, 0], [[1, 0]], ["a", "b"], by="f1"), "positive must be numbers"),
        (lambda s: s.share(["yes", "no"]), r"share: hits must be numbers, or yes and no; got"),
        (lambda s: s.mean(["", 1]), "mean: values must be numbers"),
        (lambda s: s.mean([1, 2, 3], ["a", nan, "b"]), "1 of 3 groups are missing"),
        (lambda s: s.mean([1, 2], [None, "b"]), "1 of 2 groups are missing"),
        (lambda s: s.yes_or_no("toxic", [-1, 0, 1]), "toxic holds -1"),
    ],
)
def test_errors_name_what_is_wrong(call, says):
    with pytest.raises(ValueError, match=says) as caught:
        call(SimpleNamespace(**vars(stats)))
    assert "\n" not in str(caught.value)


def test_a_factor_that_does_not_vary_leaves_the_interval_to_the_other():
    # Each frame has as many hits as the next; the words differ.
    hits = np.array([1, 0, 0, 1] * 4)
    groups = [f"frame {i // 2}|word {i % 4}" for i in range(16)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stats.share(hits, groups)
    assert 0 < found.low < 0.5 < found.high < 1 and np.isfinite(found.effective)
