"""What a scan will need, before it runs.

ScanPlan     bytes and tokens, and a sentence about them
plan_scan    the plan of a scan of some layers
refuse_scan  MemoryError if a scan does not fit
"""

from typing import NamedTuple

import torch

from .forward import chunk_tokens
from .loading import free_bytes
from .origins import CACHE_BYTES
from .sae import CHUNK_BYTES
from .scan_table import table_bytes
from .screening import screen_bytes

__all__ = ["ScanPlan", "plan_scan", "refuse_scan"]


class ScanPlan(NamedTuple):
    """Bytes, but for `layers` and `tokens`. Nothing here depends on the length of the corpus. What
    the model itself needs for a batch is not in it."""

    layers: int
    tokens: int  # whose residuals of these layers are held at a time
    residuals: int  # of these tokens, of a batch with its padding, and copies of one layer's
    saes: int  # as many as the scope keeps at once
    products: int  # pre-activations of a chunk of these tokens, and what is sorted of them
    tables: int  # statistics and contexts of all layers, always in this machine's memory

    @property
    def device(self) -> int:
        """Beside the model, on its device."""
        return self.residuals + self.saes + self.products

    def __str__(self):
        gb = {name: f"{value / 1e9:.2f} GB" for name, value in self._asdict().items()}
        return (
            f"scan of {self.layers} layers, {self.tokens} tokens at a time, beside the model: "
            f"residuals {gb['residuals']}, SAEs {gb['saes']}, pre-activations {gb['products']}; "
            f"in this machine's memory, for tables: {gb['tables']}; "
            "the same for a corpus of any length"
        )


def plan_scan(suite, layers=None) -> ScanPlan:
    """The plan of `scan_corpus` for a scope, or for a group of the catalog that nobody loaded.

    layers: None for all. A group is planned in bfloat16 on a GPU. A text longer than `tokens` is
    held whole.
    """
    layers = suite.layers if layers is None else sorted(set(layers))
    dtype = getattr(suite, "dtype", torch.bfloat16)
    device = getattr(suite, "device", torch.device("cuda"))
    tokens, width, d_sae = chunk_tokens(suite), suite.d_model, suite.d_sae
    # A batch is half a part at most. In turn a layer's parts are joined, put in order, and read
    # by the SAE in float32, shifted and shortened.
    residuals = tokens * width * dtype.itemsize * (1.5 * len(layers) + 3)
    in_float32 = 4 * tokens * width * 4
    sae = 4 * (2 * width * d_sae + width + d_sae) + screen_bytes(d_sae, width, device)
    room = getattr(suite, "cache_bytes", CACHE_BYTES)
    return ScanPlan(
        layers=len(layers),
        tokens=tokens,
        residuals=int(residuals) + in_float32,
        saes=sae * min(len(layers), max(1, room // sae)),
        products=4 * max(CHUNK_BYTES, 4 * d_sae) + 2 * 12 * suite.k * tokens,
        tables=table_bytes(d_sae, len(layers)),
    )


def refuse_scan(scope, layers) -> None:
    """MemoryError, with the plan and the way out, if a scan does not fit in what is free now.

    SAEs that the scope keeps already are not counted again.
    """
    plan = plan_scan(scope, layers)
    device = plan.device - min(scope.kept_bytes, plan.saes)
    cpu = plan.tables + (device if scope.device.type == "cpu" else 0)
    for name, needed in {scope.device.type: device, "cpu": cpu}.items():
        free = free_bytes(name)
        if free is not None and needed > free:
            raise MemoryError(f"{plan}; {free / 1e9:.2f} GB are free on {name}: scan fewer layers")
