"""A quotient of sums, with an interval where there are groups for one."""

import numpy as np

from ..evidence.stats import Estimate, n_groups, ratio


def quotient(top, bottom, groups=None, family: int = 1) -> Estimate:
    """`ratio` of numbers [samples]; without an interval where there is one group only."""
    top, bottom = np.asarray(top, float), np.asarray(bottom, float)
    if (count := n_groups(groups, len(top))) > 1:
        return ratio(top, bottom, groups, family)
    if np.isnan(top).any() or np.isnan(bottom).any() or bottom.sum() == 0:
        raise ValueError("quotient: some numbers are nan, or the bottom sums to 0")
    return Estimate(float(top.sum() / bottom.sum()), np.nan, np.nan, len(top), count, family)
