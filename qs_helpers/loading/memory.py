"""What a model and its SAEs need of memory and disk."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from . import catalog
from .catalog import DTYPE_BYTES, Group, get_group, spans
from .origin import BATCH_TOKENS, CACHE_BYTES

CHUNK_TOKENS = 512


class MemoryPlan(NamedTuple):
    """Bytes that a group needs. Activations, logits and the KV cache of a run come on top.

    On a machine without a GPU the device *is* the host: read `device` and leave `host` aside.
    """

    model: int  # the backbone's parameters, in its dtype
    sae_layer: int  # one layer's SAE
    sae_layers: int  # the SAEs of all the layers asked for, if kept at once
    chunk: int  # the dense pre-activations of one chunk of tokens
    device: int  # model + one SAE at a time + chunk: what a run needs at least
    device_all: int  # model + all SAEs asked for + chunk: no layer is read twice
    host: int  # passing through host memory on the way to a GPU: the model, or one SAE layer
    disk: int  # bf16 checkpoint + float32 SAE files of the layers asked for

    def fits(self, device_bytes: int | None = None, host_bytes: int | None = None) -> bool:
        """True if each memory given holds its part, one SAE layer at a time."""
        return (device_bytes is None or self.device <= device_bytes) and (
            host_bytes is None or self.host <= host_bytes
        )


def memory_plan(
    group: Group | str,
    layers: Sequence[int] | None = None,
    model_dtype: str = "bfloat16",
    sae_dtype: str = "float32",
    chunk_tokens: int = CHUNK_TOKENS,
) -> MemoryPlan:
    """What `group` needs on disk, in host memory and on the device, in bytes.

    layers        the layers whose SAEs are wanted; None means all that have a file
    model_dtype   "float32", "bfloat16" or "float16"; sae_dtype likewise
    chunk_tokens  tokens that `encode` treats at once

    With D = d_sae, d = d_model and b = bytes per number:
    model = n_params x b (n_params is nominal) · SAE layer = b x (2 d D + d + D) ·
    chunk = chunk_tokens x D x 4, since pre-activations are float32 ·
    disk = n_params x 2 + layers x 4 x (2 d D + d + D), the files being bf16 and float32.
    """
    group = get_group(group) if isinstance(group, str) else group
    for parameter, dtype in (("model_dtype", model_dtype), ("sae_dtype", sae_dtype)):
        if dtype not in DTYPE_BYTES:
            known = ", ".join(DTYPE_BYTES)
            raise ValueError(f"{parameter} is {dtype!r}; it must be one of {known}")
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
    layers = group.layers if layers is None else tuple(layers)
    unknown = [layer for layer in layers if layer not in group.layers]
    if unknown:
        raise ValueError(
            f"layers {unknown} have no SAE in {group.name}; it has {spans(group.layers)}"
        )
    model = round(group.n_params * DTYPE_BYTES[model_dtype])
    sae_layer = group.layer_bytes // 4 * DTYPE_BYTES[sae_dtype]
    chunk = 4 * chunk_tokens * group.d_sae
    return MemoryPlan(
        model=model,
        sae_layer=sae_layer,
        sae_layers=sae_layer * len(layers),
        chunk=chunk,
        device=model + sae_layer + chunk,
        device_all=model + sae_layer * len(layers) + chunk,
        host=max(model, group.layer_bytes),
        disk=round(group.n_params * 2) + group.layer_bytes * len(layers),
    )


def free_bytes(device: str | torch.device = "cpu") -> int | None:
    """Bytes free now on "cpu" (Linux's MemAvailable) or on a "cuda" device; None if unknown."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


VOCABULARY = 151_936  # of Qwen3; Qwen3.5 has more


def group_bytes(
    group: catalog.Group | str,
    layers: Collection[int] | None = None,
    dtype: str = "bfloat16",
    batch_tokens: int = BATCH_TOKENS,
) -> int:
    """Bytes that a report on a group needs on its device: see `check_memory`."""
    group = catalog.get_group(group) if isinstance(group, str) else group
    plan = memory_plan(group, (), dtype)
    kept = max(1, min(len(layers or group.layers), CACHE_BYTES // plan.sae_layer))
    return plan.model + kept * plan.sae_layer + plan.chunk + 4 * batch_tokens * VOCABULARY
