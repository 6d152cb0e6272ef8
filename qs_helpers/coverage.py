"""Which features a set of texts covers, and which texts to add.

coverage      the share of target features that fire in the first n texts
greedy_order  the order of texts that covers most with fewest
"""

import numpy as np

__all__ = ["coverage", "greedy_order"]


def coverage(fires, order=None) -> np.ndarray:
    """Share of features covered by the first 1, 2, … texts: float64 [texts].

    fires: bool [texts, features]; order: text numbers, else as they come. A feature is covered
    if it fires in one of the texts. ValueError if there is no text or no feature.
    """
    fires = np.asarray(fires, bool)
    if not fires.size:
        raise ValueError(f"coverage of {fires.shape[1]} features by {len(fires)} texts: give both")
    fires = fires if order is None else fires[np.asarray(order, int)]
    return np.logical_or.accumulate(fires, axis=0).mean(1)


def greedy_order(fires) -> np.ndarray:
    """Texts in the order in which each adds most uncovered features: int64 [useful texts].

    Ties go to the earlier text; it ends where no text adds a feature. Greedy set cover reaches at
    least 1 - 1/e of the best coverage of its size (Nemhauser et al. 1978).
    """
    open_, order = np.asarray(fires, bool).copy(), []
    while open_.any():
        best = int(open_.sum(1).argmax())
        order.append(best)
        open_ &= ~open_[best]
    return np.array(order, int)
