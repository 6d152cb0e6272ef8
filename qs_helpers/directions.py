"""Directions in the residual stream that are found from texts.

diff_of_means  the mean residual of some texts minus that of others
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .forward import residuals

__all__ = ["diff_of_means"]


def diff_of_means(
    scope, positive: Sequence[str], negative: Sequence[str], layers=None, last: bool = False
) -> dict[int, Tensor]:
    """{layer: float32 [d_model]}: mean residual of `positive` minus mean residual of `negative`.

    The means are over all tokens that are no sinks, or with `last` over the last token of each
    text (Marks and Tegmark 2023; for refusals Arditi et al. 2024). Not normalised. ValueError if
    a list is empty or the two means are equal.
    """
    means = [_means(scope, texts, layers, last) for texts in (positive, negative)]
    found = {layer: (means[0][layer] - means[1][layer]).float() for layer in means[0]}
    for layer, direction in found.items():
        if not direction.any():
            raise ValueError(f"both lists of texts have the same mean at layer {layer}")
    return found


def _means(scope, texts: Sequence[str], layers, last: bool) -> dict[int, Tensor]:
    sums, counts = {}, {}
    for part in residuals(scope, texts, layers):
        keep = part.keep
        if last:
            keep = keep & torch.cat([part.text[1:] != part.text[:-1], torch.tensor([True])])
        total = part.x[keep.to(part.x.device)].double().sum(0).cpu()
        sums[part.layer] = sums.get(part.layer, 0) + total
        counts[part.layer] = counts.get(part.layer, 0) + int(keep.sum())
    return {layer: total / max(1, counts[layer]) for layer, total in sums.items()}
