"""Directions in the residual stream that are found from texts.

diff_of_means         the mean residual of some texts minus that of others
template_tokens       how many tokens of a chat prompt follow what the user said
position_means        mean residual at each of the last tokens of some prompts
diff_at_positions     diff of means at each of the last tokens
without               a direction without its component along another
principal_components  the directions along which some residuals vary most
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .forward import ends, residuals

__all__ = [
    "diff_at_positions",
    "diff_of_means",
    "position_means",
    "principal_components",
    "template_tokens",
    "without",
]


def diff_of_means(
    scope, positive: Sequence[str], negative: Sequence[str], layers=None, last: bool = False
) -> dict[int, Tensor]:
    """{layer: float32 [d_model]}: mean residual of `positive` minus mean residual of `negative`.

    The means are over all tokens that are no sinks, or with `last` over the last token of each
    text (Marks and Tegmark 2023; for refusals Arditi et al. 2024). Not normalised. ValueError if
    a list is empty or the two means are equal.
    """
    if last:
        found = diff_at_positions(scope, positive, negative, 1, layers)
        return {layer: directions[0] for layer, directions in found.items()}
    sides = [_means(scope, texts, layers) for texts in (positive, negative)]
    return _differences(*sides)


def template_tokens(scope) -> int:
    """How many tokens the chat template puts after the user's text, the generation prompt
    included: the positions at which Arditi et al. look for directions."""
    first, second = scope.ids([scope.chat("0"), scope.chat("a")])
    same = 0
    while first[-1 - same] == second[-1 - same]:
        same += 1
    return same


def position_means(scope, prompts: Sequence[str], n: int, layers=None) -> dict[int, Tensor]:
    """{layer: float64 [n, d_model]}: mean residual at each of the last n tokens, in their order.

    ValueError for no prompts, or one of fewer than n tokens.
    """
    sums: dict[int, Tensor] = {}
    for layer, x, _ in ends(scope, prompts, n, layers):
        sums[layer] = sums.get(layer, 0) + x.double().sum(0).cpu()
    return {layer: total / len(prompts) for layer, total in sums.items()}


def diff_at_positions(
    scope, positive: Sequence[str], negative: Sequence[str], n: int, layers=None
) -> dict[int, Tensor]:
    """{layer: float32 [n, d_model]}: the diff of means at each of the last n tokens of prompts.

    With n of `template_tokens` these are the candidates of Arditi et al. 2024, read after a layer
    and not before it. Not normalised. Errors as in `diff_of_means` and `position_means`.
    """
    sides = [position_means(scope, prompts, n, layers) for prompts in (positive, negative)]
    return _differences(*sides)


def without(direction: Tensor, other: Tensor) -> Tensor:
    """direction - (direction . unit) unit, unit along `other`: float32 [d_model].

    With the mean of harmless prompts as `other` it is "projected" abliteration (grimjim 2025).
    Taken off twice in float64, against rounding. ValueError if nothing is left.
    """
    left, unit = direction.double(), normalize(other.double(), dim=0)
    size = torch.linalg.vector_norm(left)
    for _ in range(2):
        left = left - (left @ unit) * unit
    if torch.linalg.vector_norm(left) <= 1e-9 * size:
        raise ValueError("the direction lies along the other one, so nothing of it is left")
    return left.float()


def principal_components(scope, prompts: Sequence[str], layer: int, n: int = 1) -> Tensor:
    """The n directions of largest variance of the last token of prompts: float32 [n, d_model]."""
    x = torch.cat([x[:, 0].double().cpu() for _, x, _ in ends(scope, prompts, 1, [layer])])
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:n].float()


def _differences(positive: dict, negative: dict) -> dict[int, Tensor]:
    found = {layer: (positive[layer] - negative[layer]).float() for layer in positive}
    for layer, direction in found.items():
        if not direction.any():
            raise ValueError(f"both lists of texts have the same mean at layer {layer}")
    return found


def _means(scope, texts: Sequence[str], layers) -> dict[int, Tensor]:
    sums, counts = {}, {}
    for part in residuals(scope, texts, layers):
        total = part.x[part.keep.to(part.x.device)].double().sum(0).cpu()
        sums[part.layer] = sums.get(part.layer, 0) + total
        counts[part.layer] = counts.get(part.layer, 0) + int(part.keep.sum())
    return {layer: total / max(1, counts[layer]) for layer, total in sums.items()}
