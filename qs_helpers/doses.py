"""What a dose is measured in, and what an edit really did.

strong_activation  the 99th percentile of a feature's activations: its own unit of dose
EditReport         the size and reach of an edit, and what became of the features
edit_sizes         how much edits at any places of a model change, prompt by prompt
report_edit        measure an edit on texts
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from .forward import activations, residuals
from .hooks import capture
from .replay import edited, first_place
from .stats import Estimate, mean
from .tokens import batches

__all__ = ["EditReport", "edit_sizes", "report_edit", "strong_activation"]


def strong_activation(scope, texts: Sequence[str], layer: int, features, q: float = 0.99) -> Tensor:
    """The q-quantile of each feature's activations over tokens where it is active: float32
    [features]. ValueError names a feature that is active on no token that is no sink."""
    features = torch.as_tensor(features).reshape(-1)
    found: list[list[Tensor]] = [[] for _ in features]
    for part in activations(scope, texts, [layer]):
        active = (part.acts.values > 0) & part.keep[:, None]
        for place, feature in enumerate(features):
            found[place].append(part.acts.values[active & (part.acts.indices == feature)])
    values = [torch.cat(parts) for parts in found]
    silent = [int(f) for f, v in zip(features, values, strict=True) if not len(v)]
    if silent:
        raise ValueError(
            f"features {silent} of layer {layer} are active on none of these {len(texts)} texts, "
            "so there is no dose to take from them; choose live features or other texts"
        )
    return torch.stack([v.quantile(q) for v in values])


class EditReport(NamedTuple):
    """What an edit did to the tokens of some texts; intervals are over texts."""

    edited: Estimate
    """share of tokens that changed"""
    size: Estimate
    """mean |x' - x| / |x| over tokens that changed"""
    before: Tensor
    """mean activation of each feature over tokens that changed, [features]"""
    after: Tensor
    """the same after the edit, from encoding x' again: other features compete for the TopK"""


@torch.no_grad()
def edit_sizes(scope, texts: Sequence[str], functions: Mapping) -> pd.DataFrame:
    """How much edits, given as to `edit`, change while the model reads each text; one row a text.

    edited: share of tokens that are changed anywhere; size: sum over all places of |x' - x|, the
    mean over tokens, in units of the residuals; relative: the same with |x' - x| / |x|, where x
    is what is edited (for "writes" a write, which is shorter than the stream).
    """
    ids = scope.ids(list(texts))
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


@torch.no_grad()
def report_edit(
    scope, texts: Sequence[str], layer: int, change: Callable[[Tensor], Tensor], features=()
) -> EditReport:
    """Apply an edit to the residuals of texts after `layer` and read the result with the SAE.

    ValueError if the edit changes no token.
    """
    features = torch.as_tensor(features, dtype=torch.int64).reshape(-1)
    columns: list[list[Tensor]] = [[] for _ in range(5)]
    for part in residuals(scope, texts, [layer]):
        new = change(part.x[None])[0]
        moved = torch.linalg.vector_norm(new.float() - part.x.float(), dim=-1)
        share = moved / torch.linalg.vector_norm(part.x.float(), dim=-1)
        touched = moved > 0
        rows = [touched, share, part.text]
        rows += [scope.sae(layer).some(x, features) for x in (part.x, new)]
        for column, values in zip(columns, rows, strict=True):
            column.append(values.cpu())
    touched, share, text, before, after = (torch.cat(column) for column in columns)
    if not touched.any():
        raise ValueError(f"the edit of layer {layer} changes no token of these {len(texts)} texts")
    return EditReport(
        mean(touched.float(), text),
        mean(share[touched], text[touched]) if len(set(text[touched].tolist())) > 1 else
        Estimate(share[touched].mean().item(), 0.0, float("inf"), 1),
        before[touched].mean(0),
        after[touched].mean(0),
    )  # fmt: skip
