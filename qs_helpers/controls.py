"""What an effect has to beat.

random_directions  unit directions that mean nothing
matched_features   random live features that fire as often as a given one
equal_size         the dose at which a control changes as much as what it is a control for
shuffled_choice    features that the same choice finds when the labels are shuffled
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["equal_size", "matched_features", "random_directions", "shuffled_choice"]


def random_directions(n: int, d_model: int, seed: int = 0) -> Tensor:
    """n unit vectors, uniform on the sphere: float32 [n, d_model].

    The seed is shifted, so that a small one does not give the directions at which an SAE that was
    seeded in the same way started (where its dead features still are).
    """
    generator = torch.Generator().manual_seed(seed + 1_000_003)
    return normalize(torch.randn(n, d_model, generator=generator), dim=1)


def matched_features(density, feature: int, n: int = 20, seed: int = 0) -> np.ndarray:
    """n other features, drawn without replacement from those that fire as often: int64 [n].

    density: share of tokens on which each feature fires, [d_sae]. Candidates are the live features
    of the feature's decile of firing rate, or the nearest ones in rate where a decile has fewer
    than n. ValueError for a dead feature, or with fewer than n other live ones.
    """
    density = np.asarray(density, float)
    live = np.flatnonzero(density > 0)
    if density[feature] <= 0:
        raise ValueError(f"feature {feature} is dead in this corpus: there is no rate to match")
    if len(live) <= n:
        raise ValueError(f"only {len(live)} features are live; {n} controls need more")
    ranks = density[live].argsort(kind="stable").argsort()  # 0 to live - 1
    own = ranks[live == feature][0]
    decile = ranks * 10 // len(live) == own * 10 // len(live)
    others = live[decile & (live != feature)]
    if len(others) < n:
        nearest = np.abs(ranks - own).argsort(kind="stable")
        others = live[nearest[nearest != np.flatnonzero(live == feature)[0]][:n]]
    return np.random.default_rng(seed).choice(others, n, replace=False)


def equal_size(
    measure: Callable[[float], float], size: float, within: float = 0.005, over: float = 0.03
) -> tuple[float, float]:
    """The dose at which `measure(dose)` is `size`, to half a percent, and what it is there.

    `measure` gives the size of an edit (say the mean of `edit_sizes`), which grows about linearly
    with the dose: steps of proportion from 1 find it, then halving. Where the size jumps over it,
    as when an edit opens a gate above, the dose above the jump is taken if it is at most `over` too
    large: a control may be larger than what it is compared with, but not smaller. ValueError if
    there is none, or if the edit changes nothing.
    """
    dose, low, high, above = 1.0, 0.0, float("inf"), (0.0, float("inf"))
    for _ in range(40):
        found = measure(dose)
        if found <= 0:
            raise ValueError(f"the control changes nothing at dose {dose:g}, so no size is equal")
        if abs(found / size - 1) <= within:
            return dose, found
        if found > size:
            high, above = dose, min(above, (dose, found), key=lambda pair: pair[1])
        else:
            low = dose
        if high - low < 1e-3 * high:
            break
        dose *= size / found
        if not low < dose < high:
            dose = (low + high) / 2 if high < float("inf") else 2 * low
    if above[1] <= (1 + over) * size:
        return above
    raise ValueError(f"no dose gives an edit of size {size:g}; the last was {found:g}")


def shuffled_choice(positive, negative, n: int = 20, seed: int = 0) -> np.ndarray:
    """The feature that differs most between two random halves, for n shuffles: int64 [n].

    positive, negative: whether each feature fires in each text, bool [texts, d_sae]. The choice
    is that of the largest difference of firing shares, as for the true labels.
    """
    fires = np.concatenate([np.asarray(positive, bool), np.asarray(negative, bool)])
    label = np.repeat([True, False], [len(positive), len(negative)])
    rng, found = np.random.default_rng(seed), []
    for _ in range(n):
        shuffled = rng.permutation(label)
        gap = fires[shuffled].mean(0) - fires[~shuffled].mean(0)
        found.append(int(gap.argmax()))
    return np.array(found)
