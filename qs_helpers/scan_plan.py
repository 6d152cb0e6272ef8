"""What a scan will need, before it runs.

ScanPlan     bytes and tokens, and a sentence about them
plan_scan    the plan of a scan of some layers
refuse_scan  MemoryError if a scan does not fit
"""

from typing import NamedTuple

import torch

from .forward import chunk_tokens
from .loading import free_bytes
from .sae import CHUNK_BYTES
from .scan_table import table_bytes
from .screening import screen_bytes

__all__ = ["ScanPlan", "plan_scan", "refuse_scan"]


class ScanPlan(NamedTuple):
    """Bytes, but for `layers` and `tokens`. Nothing here depends on the length of the corpus."""

    layers: int
    tokens: int  # whose residuals of all layers are held at a time
    residuals: int  # of these tokens, and of one layer once more while they are put in order
    sae: int  # of one layer, with the screen of its encoder
    products: int  # pre-activations of a part of these tokens
    tables: int  # statistics and contexts of all layers, always in this machine's memory

    @property
    def device(self) -> int:
        """Beside the model, on its device."""
        return self.residuals + self.sae + self.products

    def __str__(self):
        gb = {name: f"{value / 1e9:.2f} GB" for name, value in self._asdict().items()}
        return (
            f"scan of {self.layers} layers, {self.tokens} tokens at a time, beside the model: "
            f"residuals {gb['residuals']}, one SAE {gb['sae']}, pre-activations {gb['products']}; "
            f"in this machine's memory, for tables: {gb['tables']}; "
            "the same for a corpus of any length"
        )


def plan_scan(suite, layers=None) -> ScanPlan:
    """The plan of `scan_corpus` for a scope, or for a group of the catalog that nobody loaded.

    layers: None for all. A group is planned in bfloat16 on a GPU. At least one text is held at a
    time, however long it is.
    """
    layers = suite.layers if layers is None else sorted(set(layers))
    dtype = getattr(suite, "dtype", torch.bfloat16)
    device = getattr(suite, "device", torch.device("cuda"))
    d_model, d_sae = suite.d_model, suite.d_sae
    tokens = chunk_tokens(len(layers), d_model, dtype)
    sae = 4 * (2 * d_model * d_sae + d_model + d_sae)
    return ScanPlan(
        layers=len(layers),
        tokens=tokens,
        residuals=(len(layers) + 2) * tokens * d_model * dtype.itemsize,
        sae=sae + screen_bytes(d_sae, d_model, device),
        products=max(CHUNK_BYTES, 4 * d_sae),
        tables=table_bytes(d_sae, len(layers)),
    )


def refuse_scan(scope, layers) -> None:
    """MemoryError, with the plan and the way out, if a scan does not fit in what is free now."""
    plan = plan_scan(scope, layers)
    needs = {"cpu": plan.tables, scope.device.type: plan.device}
    if scope.device.type == "cpu":
        needs = {"cpu": plan.tables + plan.device}
    for device, needed in needs.items():
        free = free_bytes(device)
        if free is not None and needed > free:
            raise MemoryError(
                f"{plan}; {free / 1e9:.2f} GB are free on {device}: scan fewer layers"
            )
