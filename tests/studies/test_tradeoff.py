"""A quotient of sums, with and without an interval."""

import numpy as np

from qs_helpers.studies.tradeoff import quotient


def test_a_quotient_of_one_group_has_no_interval():
    known, one = quotient([1, 2], [2, 4], ["a", "b"]), quotient([1, 2], [2, 4], ["a", "a"], 3)
    assert known.value == one.value == 0.5 and known.low == 0.5
    assert np.isnan(one.low) and (one.groups, one.family) == (1, 3)
