"""What an effect has to beat: random directions, matched features, edits of equal size."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from .fast.reuse import edited, first_place
from .forward import batches
from .hooks import capture


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
    of the feature's decile of firing rate, or the nearest ones in rank of rate where a decile has
    fewer than n; among few live features these may fire far more or less often. ValueError for a
    dead feature, or with fewer than n other live ones.
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


@torch.no_grad()
def edit_sizes(scope, texts: Sequence[str], functions: Mapping) -> pd.DataFrame:
    """How much edits, given as to `edit`, change while the model reads each text; one row a text.

    edited: share of tokens that are changed anywhere; size: sum over all places of |x' - x|, the
    mean over tokens, in units of the residuals; relative: the same with |x' - x| / |x|, where x
    is what is edited (for "writes" a write, which is shorter than the stream).
    """
    ids = scope.ids(texts)
    table = torch.zeros(len(ids), 3, dtype=torch.float64)
    seen: list[Tensor] = []

    def noted(function):
        def changed(x: Tensor) -> Tensor:
            new = function(x)
            moved = torch.linalg.vector_norm(new.float() - x.float(), dim=-1)
            norm = torch.linalg.vector_norm(x.float(), dim=-1).clamp(min=1e-30)
            seen.append(torch.stack([moved, moved / norm]).double())
            return new

        return changed

    wrapped = {place: noted(function) for place, function in functions.items()}
    for rows in batches({i: len(tokens) for i, tokens in enumerate(ids)}, scope.batch_tokens):
        batch, _ = scope.tokens([ids[i] for i in rows]), seen.clear()
        # Without layers above the last edit, and without the head: neither changes anything here.
        last = [max(functions)] if first_place(functions) is not None else []
        with edited(scope.model, batch, wrapped), capture(scope.model, last):
            scope.model(**batch, use_cache=False, logits_to_keep=1)
        real = batch["attention_mask"].double()
        moved, relative = torch.stack(seen).sum(0) * real
        touched = (torch.stack([one[0] > 0 for one in seen]).any(0) * real).double()
        sums = torch.stack([touched.sum(1), moved.sum(1), relative.sum(1)], 1)
        table[rows] = (sums / real.sum(1, keepdim=True)).cpu()
    return pd.DataFrame(table.numpy(), columns=["edited", "size", "relative"])


def matched_set(density: np.ndarray, features: Sequence[int], seed: int = 0) -> np.ndarray:
    """Other live features that fire as often as these, one for each and none twice: int64.

    density: share of tokens on which each feature fires, [d_sae]. A feature that does not fire is
    matched as if it were the rarest that does. Fewer where too few features are live.
    """
    live = np.flatnonzero(density > 0)
    rarest = int(live[density[live].argmin()])
    own, taken = {int(f) for f in features}, []
    count = min(2 * len(features), len(live) - 1)
    for i, feature in enumerate(features):
        feature = int(feature) if density[feature] > 0 else rarest
        near = matched_features(density, feature, count, seed=1000 * seed + i)
        taken += [f for f in near.tolist() if f not in own and f not in taken][:1]
    return np.array(taken, dtype=np.int64)
