"""Notebook 06. Sets of SAE features of several layers: chosen, edited together, matched.

A set is a list of (layer, feature). Scores are {layer: numbers [d_sae]}; all but the cosine carry
the layer's scale with them, so `activation_gap` divides by the median norm of the layer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..controls import matched_features
from ..forward import activations, listed
from ..steering import change_features, only_where

FeatureSet = Sequence[tuple[int, int]]


def activity(scope, texts: Sequence[str], layers) -> tuple[dict, dict]:
    """Share of tokens on which each feature fires, and its mean activation over all tokens: two
    {layer: float64 [d_sae]}. Sinks do not count."""
    rates = {n: np.zeros(scope.d_sae) for n in layers}
    means = {n: np.zeros(scope.d_sae) for n in layers}
    tokens = dict.fromkeys(layers, 0)
    for part in activations(scope, texts, layers):
        index, values = part.acts.indices[part.keep], part.acts.values[part.keep].double()
        index, values = index.flatten().numpy(), values.flatten().numpy()
        rates[part.layer] += np.bincount(index, values > 0, scope.d_sae)
        means[part.layer] += np.bincount(index, values, scope.d_sae)
        tokens[part.layer] += int(part.keep.sum())
    return tuple({n: x[n] / max(1, tokens[n]) for n in layers} for x in (rates, means))


def activation_gap(scope, positive, negative, scales) -> dict[int, np.ndarray]:
    """Mean activation on `positive` minus that on `negative`, over all tokens, in median norms of
    the layer: {layer: float64 [d_sae]} for the layers of `scales` ({layer: Scale})."""
    sides = [activity(scope, texts, list(scales))[1] for texts in (positive, negative)]
    return {n: (sides[0][n] - sides[1][n]) / scale.median for n, scale in scales.items()}


def best(scores: Mapping[int, Sequence[float]], n: int) -> list[tuple[int, int]]:
    """The n features (layer, feature) with the highest scores above 0, best first."""
    layers = np.concatenate([np.full(len(x), layer) for layer, x in scores.items()])
    ids = np.concatenate([np.arange(len(x)) for x in scores.values()])
    values = np.concatenate([np.asarray(x, float) for x in scores.values()])
    order = [i for i in np.argsort(-values, kind="stable")[:n] if values[i] > 0]
    return [(int(layers[i]), int(ids[i])) for i in order]


def feature_edits(scope, chosen: FeatureSet, scales, factor: float = 0.0, gates=None) -> dict:
    """{layer: function}, as `edit` takes it: the activations of a set become factor times what
    they were, 0 by default. scales: {layer: Scale}. gates: {layer: number}; the set is then
    changed only at tokens where the sum of its activations is above that number. ValueError for
    an empty set."""
    if not chosen:
        raise ValueError("the set of features is empty")
    functions = {}
    for layer, ids in _by_layer(chosen).items():
        function = change_features(scope.sae(layer), ids, "scale", scales[layer], float(factor))
        if gates is not None:
            function = only_where(_above(scope.sae(layer), ids, gates[layer]), function)
        functions[layer] = function
    return functions


def redirected(scope, edits: Mapping, other: FeatureSet, times: float = 1.0) -> dict:
    """A control for edits {layer: function}: at each token, `times` the norm of what the true edit
    would change there is taken away along the features of another set.

    Where some of these are active, along what they contribute; else along the sum of their
    directions. Layers of which `other` has no feature are left alone.
    """
    split = _by_layer(other)

    def function(layer: int, true):
        sae, ids = scope.sae(layer), torch.tensor(split[layer])
        columns = sae.direction(ids)

        def edit(x: Tensor) -> Tensor:
            size = torch.linalg.vector_norm(true(x).float() - x.float(), dim=-1, keepdim=True)
            touched = size[..., 0] > 0  # a gated edit changes few tokens: read only these
            if not touched.any():
                return x
            z = sae.some(x[touched], ids)
            z = torch.where((z > 0).any(-1, keepdim=True), z, torch.ones_like(z))
            away = torch.nn.functional.normalize(z.to(columns) @ columns, dim=-1).to(x.device)
            new = x.clone()
            new[touched] = (x[touched].float() - times * size[touched] * away).to(x.dtype)
            return new

        return edit

    return {layer: function(layer, true) for layer, true in edits.items() if layer in split}


def usual_peaks(scope, texts: Sequence[str], sets, q: float = 0.95) -> list[dict[int, float]]:
    """For each set, {layer: number}: the q-quantile over texts of the largest sum, over the tokens
    of a text, of the activations of the set's features of that layer."""
    texts, split = listed(texts), [_by_layer(chosen) for chosen in sets]
    peaks = [{layer: torch.zeros(len(texts)) for layer in parts} for parts in split]
    for part in activations(scope, texts, sorted({n for parts in split for n in parts})):
        for parts, peak in zip(split, peaks, strict=True):
            if part.layer in parts:
                chosen = torch.isin(part.acts.indices, torch.tensor(parts[part.layer]))
                total = (part.acts.values * chosen).sum(-1) * part.keep
                peak[part.layer].scatter_reduce_(0, part.text, total.float(), "amax")
    return [{n: values.quantile(q).item() for n, values in peak.items()} for peak in peaks]


def random_sets(rates, chosen: FeatureSet, n: int = 20, seed: int = 0) -> list[list]:
    """n sets, each with one other feature for each of the chosen ones, of the same layer and
    decile of firing rate (`matched_features`), without repeats. Features that never fire in
    `rates` ({layer: share of tokens, float64 [d_sae]}) have no match and are left out."""
    candidates = {}
    for place, (layer, f) in enumerate(chosen):
        others = int((np.asarray(rates[layer]) > 0).sum()) - 1
        if rates[layer][f] > 0:
            drawn = matched_features(rates[layer], f, min(60, others), seed + place)
            candidates[layer, f] = [(layer, int(other)) for other in drawn]
    rng, sets = np.random.default_rng(seed), []
    for _ in range(n):
        taken: list[tuple[int, int]] = []
        for options in candidates.values():
            # A feature that another one already took is replaced by its next candidate.
            drawn = [options[i] for i in rng.permutation(len(options))]
            taken += [one for one in drawn if one not in taken and one not in chosen][:1]
        sets.append(taken)
    return sets


def _by_layer(chosen: FeatureSet) -> dict[int, list[int]]:
    layers = sorted({layer for layer, _ in chosen})
    return {n: [feature for layer, feature in chosen if layer == n] for n in layers}


def _above(sae, ids: list[int], level: float):
    """A condition: the sum of a set's activations is above a level."""
    return lambda x: sae.some(x, torch.tensor(ids)).sum(-1).to(x.device) > level
