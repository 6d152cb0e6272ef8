"""Samples that go through a CSV give the estimate that they gave."""

from math import nan

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from qs_helpers.evidence import stats
from qs_helpers.evidence.samples import STATISTICS, as_csv, computed, disagreement
from qs_helpers.evidence.stats import Estimate
from qs_helpers.evidence.tradeoff import Curve, cost_gap, gap_samples

RNG = np.random.default_rng(0)
X, Y, HITS, TRUE = RNG.normal(size=60), RNG.random(60), RNG.random(60) < 0.7, RNG.random(60) < 0.5
GROUPS = [f'frame {i % 12}|wörd, "{i % 7}"\r\n' for i in range(60)]
COLUMNS = {
    "share": {"hits": HITS},
    "f1": {"flagged": HITS, "positive": TRUE},
    "auroc": {"scores": torch.tensor(X, dtype=torch.float32), "positive": TRUE},
    "ratio": {"top": X, "bottom": Y},
    "mean": {"values": X.tolist()},
    "difference": {"first": HITS, "second": Y},
}


@pytest.mark.parametrize("by", COLUMNS)
@pytest.mark.parametrize("groups", [None, GROUPS, np.arange(60) // 4])
def test_an_estimate_is_computed_again_to_the_last_digit(by, groups):
    given = getattr(stats, by)(**COLUMNS[by], groups=groups, family=3)
    content = as_csv({"by": by, "groups": groups} | COLUMNS[by])
    assert computed(by, content, 3) == given
    assert computed(by, content, 1) != given  # of another level


def test_of_a_rank_correlation_the_value_is():
    found = computed("spearman", as_csv({"by": "spearman", "first": X, "second": Y}))
    assert found.value == spearmanr(X, Y).statistic and found.n == 60
    assert disagreement(found.value, (0.1, 0.2), found) == ""


@pytest.mark.parametrize("groups", [None, (GROUPS[:40], GROUPS[:30])])
def test_a_gap_at_equal_effect_is(groups):
    curves = []
    for size in (0.1, 0.2):
        outcome = np.stack([RNG.random(40) < p for p in (0.6, 0.1)]).astype(float)
        cost = np.stack([RNG.exponential(s * size, 30) for s in (0.1, 1.0)])
        curves.append(Curve(outcome, cost, np.ones(40), groups))
    given = cost_gap(*curves, 0.5, 4)
    assert given.low < given.value < given.high
    assert disagreement(*_recorded(given), computed("cost_gap", _of(curves, 0.5), 4)) == ""
    assert disagreement(*_recorded(given), computed("cost_gap", _of(curves[::-1], 0.5), 4))


def _of(curves, reduction):
    return as_csv(gap_samples(*curves, reduction))


def _recorded(estimate):
    return estimate.value, estimate.interval


def test_every_statistic_is_tested_here():
    assert {*STATISTICS} == {*COLUMNS, "spearman", "cost_gap"}


def test_the_file_can_be_read_by_people():
    samples = {"by": "share", "hits": [True, 0.25], "groups": ["a", 3]}
    assert as_csv(samples) == b'"hits","groups"\n1.0,"00001"\n0.25,"00000"\n'


@pytest.mark.parametrize(
    ("by", "content", "says"),
    [
        ("shar", b'"hits"\n1\n', "by 'shar'; did you mean share?"),
        ("", b'"hits"\n1\n', "by ''; known: auroc"),
        ("share", b'"hit"\n1\n', "unexpected keyword argument 'hit'"),
        ("f1", b'"flagged"\n1\n', "missing 1 required positional argument: 'positive'"),
        ("share", b'"hits"\nyes\n', "could not convert string to float: 'yes'"),
        ("share", b'"hits"\n2\n', "each yes or no, or from 0 to 1"),
        (
            "difference",
            b'"first","second"\n1,0\n1\n',
            "2 lines below the names, not all with 2",
        ),
        ("share", b'"hits"\n', "0 lines below the names"),
        ("share", b"", "0 lines below the names"),
        ("share", b'"hits"\n1\n\xff', "can't decode byte"),
    ],
)
def test_what_cannot_be_computed_is_said(by, content, says):
    with pytest.raises(ValueError) as caught:
        computed(by, content)
    assert says in str(caught.value)


def test_columns_are_numbers_and_equally_long():
    with pytest.raises(ValueError, match="samples: hits must be numbers, or yes and no; got"):
        as_csv({"by": "share", "hits": ["yes"]})
    with pytest.raises(ValueError, match="2 hits, 1 groups; give as many of each"):
        as_csv({"by": "share", "hits": [1, 0], "groups": ["a"]})


@pytest.mark.parametrize(
    ("value", "interval", "says"),
    [
        (0.5, (0.4, 0.6), ""),
        (0.5 + 1e-12, (0.4, 0.6), ""),
        (0.5, None, ""),
        ("nan", None, "nan recorded, 0.5 computed from the samples"),
        (0.51, None, "0.51 recorded, 0.5 computed from the samples"),
        (0.5, (0.41, 0.6), "0.5 [0.41, 0.6] recorded, 0.5 [0.4, 0.6] computed from the samples"),
        (0.5, ("-inf", 0.6), "0.5 [-inf, 0.6] recorded, 0.5 [0.4, 0.6] computed from the samples"),
        (0.5000001, None, "0.5000001 recorded, 0.5 computed from the samples"),
    ],
)
def test_disagreement_has_both_numbers(value, interval, says):
    assert disagreement(value, interval, Estimate(0.5, 0.4, 0.6, 9)) == says
    wide = Estimate(0.5, nan, nan, 9)  # without an interval of its own
    assert disagreement(0.5, interval, wide) == ""


def test_labels_of_groups_are_numbers_that_draw_the_same_groups():
    """A label may be an insult; the bootstrap depends on the order of labels, which is kept."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    one = [f"frame {x}" for x in rng.integers(0, 12, 40)]
    two = [f"{a}|{b}" for a, b in zip(one, rng.choice(["fool", "pest", "bore"], 40), strict=True)]
    two[3] = "alone"  # stands for both of its parts
    for groups in (one, two):
        content = as_csv({"by": "mean", "values": values, "groups": groups})
        assert not any(word in content for word in (b"fool", b"frame", b"alone"))
        assert computed("mean", content)[:5] == stats.mean(values, groups)[:5]
