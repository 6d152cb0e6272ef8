"""What a run needs of memory and disk: one calculator for all that plans or refuses.

Notebook 01, the README, `load_scope`, a scan and the check before a report ask `memory_plan`. On
its device a run needs

    model   its weights in its dtype
    + SAEs  as many as are kept at once: of all layers that are read, `cache_bytes` at most, one at
            least; each with its screen, of int8 on a CPU and float16 on a GPU
    + work  the larger of two things that are not there together: a chunk of pre-activations and
            the float32 logits of a batch; or residuals and pre-activations of a scan and, on a
            CPU, its tables

`training_plan` says the same of a training, and what it takes of disk and time.

Torch is not needed, so that a report is refused at once. The constants are those of the modules
that use them, which tests/loading/test_memory.py compares.
"""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import psutil

from .catalog import BATCH_TOKENS, DTYPE_BYTES, GROUPS, Group, get_group, spans

# Of SAEs kept at once: two layers of an 8B suite, or eight of a 1.7B suite. On a GPU one of the
# first takes 2.15 GB and its screen 0.54.
CACHE_BYTES = 5_400_000_000

# sae.py: of dense pre-activations at a time, one token's at least
CHUNK_BYTES, GPU_CHUNK_BYTES = 2**26, 2**28
SCREENED = 2**24  # fast/topk.py: numbers in W_enc from which it is screened
PART_TOKENS, PART_BYTES = 8192, 2**31  # forward.py: of a scan, of residuals at a time

# Of mean residuals and readings of labelled texts (notebook 04), held on the host at a time.
READING_BYTES = 2_000_000_000

# views/tables.py, for each feature: statistics and contexts of a layer (as many wait as are kept),
# and those of one kind in one layer three times more while they are merged.
TABLE_BYTES, MERGE_BYTES = 6272, 14_400

# training/trainer.py: tokens of a step, of which scale and median are taken, between checkpoints,
# and of which an SAE's quality is taken.
BATCH, SAMPLE, SAVED_EVERY, MEASURED, FIRED_IN = 512, 32_768, 32_768, 200_000, 1_000_000
MIXED, SHARD_BYTES = 131_072, 2**29  # training/shards.py: of one layer, tokens; of one shard

# What hours are planned with. Of an H100 a share of the dense peaks that NVIDIA publishes for SXM,
# in FLOP/s, and its memory in B/s; beside it 16 cores of 2.5 GHz and 32 FLOP a cycle at the same
# share, and a disk that takes a checkpoint in B/s. No training was measured against them.
SHARE = 0.4
BFLOAT16_FLOPS, FLOAT32_FLOPS, HBM_BYTES = SHARE * 989e12, SHARE * 67e12, 3.35e12
HOST_FLOPS, DISK_BYTES = SHARE * 1.28e12, 1e9


class MemoryPlan(NamedTuple):
    """Bytes, but for `layers`, `tokens` and `on_cpu`; none depends on the length of a corpus."""

    layers: int  # that are read
    tokens: int  # of a scan, whose residuals are held at a time
    on_cpu: bool  # the device is the host: its memory holds the tables too
    model: int  # the weights, in the model's dtype
    sae_layer: int  # one layer's SAE
    sae_layers: int  # the SAEs of all layers that are read
    saes: int  # those that are kept at once
    chunk: int  # pre-activations of a chunk of tokens
    logits: int  # float32, of a batch of texts
    residuals: int  # of a scan: those of `tokens`, of a batch, and copies of one layer's
    products: int  # of a scan: pre-activations of a chunk, and what is sorted of them
    tables: int  # of a scan, always in the host's memory
    host: int  # the most that is in the host's memory at once beside a GPU
    disk: int  # a bf16 checkpoint and the float32 files of the layers

    @property
    def scan(self) -> int:
        """A scan's part of the device, beside model and SAEs."""
        return self.residuals + self.products + self.tables * self.on_cpu

    @property
    def device(self) -> int:
        """What a run needs on its device: the one number."""
        return self.model + self.saes + max(self.chunk + self.logits, self.scan)

    @property
    def device_all(self) -> int:
        """The same with the SAEs of all layers kept: none is read twice."""
        return self.device - self.saes + self.sae_layers

    @property
    def least(self) -> int:
        """Below this not even one SAE reads one text."""
        return self.model + self.sae_layer + self.chunk

    def __str__(self):
        return (
            f"scan of {self.layers} layers, {self.tokens} tokens at a time: residuals "
            f"{gb(self.residuals)}, pre-activations {gb(self.products)}, and for tables "
            f"{gb(self.tables)} of this machine's memory, the same for a corpus of any length; "
            f"with model, SAEs ({gb(self.saes)}) and logits a run needs {gb(self.device)}"
        )


def memory_plan(
    group: Group | str,
    layers: Collection[int] | None = None,
    model_dtype: str = "bfloat16",
    sae_dtype: str = "float32",
    *,
    device="cuda",
    batch_tokens: int = BATCH_TOKENS,
    cache_bytes: int = CACHE_BYTES,
) -> MemoryPlan:
    """What a run of `group` needs on its device, of the host and on disk, in bytes.

    layers         those whose SAEs are read; None: all that have a file
    model_dtype    "float32", "bfloat16" or "float16"; sae_dtype likewise
    device         torch device or its name; tables of a scan lie beside the SAEs on a CPU
    batch_tokens   of one forward pass over texts;  cache_bytes: of SAEs kept at once

    The model is n_params x bytes, and n_params of the catalog is nominal: good to a few percent.
    ValueError for a dtype, a layer or a number of tokens that there is not.
    """
    group = get_group(group) if isinstance(group, str) else group
    for parameter, dtype in (("model_dtype", model_dtype), ("sae_dtype", sae_dtype)):
        if dtype not in DTYPE_BYTES:
            known = ", ".join(DTYPE_BYTES)
            raise ValueError(f"{parameter} is {dtype!r}; it must be one of {known}")
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; it must be at least 1")
    layers = group.layers if layers is None else tuple(layers)
    if unknown := [layer for layer in layers if layer not in group.layers]:
        known = spans(group.layers)
        raise ValueError(f"layers {unknown} have no SAE in {group.name}; it has {known}")
    n, width, d_sae, on_cpu = len(layers), group.d_model, group.d_sae, kind(device) == "cpu"
    model = round(group.n_params * DTYPE_BYTES[model_dtype])
    sae = group.layer_bytes // 4 * DTYPE_BYTES[sae_dtype]
    if sae_dtype == "float32" and width * d_sae >= SCREENED:
        # Counted on every CPU, used where it multiplies int8; on a GPU used in large batches.
        sae += d_sae * width * (1 if on_cpu else 2)
    chunk = max(CHUNK_BYTES if on_cpu else GPU_CHUNK_BYTES, 4 * d_sae)
    tokens = min(PART_TOKENS, PART_BYTES // (4 * group.n_layers * width))
    # A batch is half a part at most. In turn a layer's parts are joined, put in order, and read
    # by the SAE in float32, shifted and shortened.
    residuals = tokens * width * (DTYPE_BYTES[model_dtype] * (3 * n + 6) // 2 + 16)
    tables = d_sae * (n * TABLE_BYTES + MERGE_BYTES)
    return MemoryPlan(
        layers=n,
        tokens=tokens,
        on_cpu=on_cpu,
        model=model,
        sae_layer=sae,
        sae_layers=sae * n,
        saes=sae * max(1, min(n, cache_bytes // sae)),
        chunk=chunk,
        logits=4 * batch_tokens * group.vocabulary,
        residuals=residuals,
        products=4 * chunk + 24 * group.k * tokens,
        tables=tables,
        host=max(model, group.layer_bytes, tables),
        disk=round(group.n_params * 2) + group.layer_bytes * n,
    )


class ReadingPlan(NamedTuple):
    """What it takes to read labelled texts at chosen features, for probes too: bytes of the host,
    beside model, SAEs and the work of a pass."""

    groups: list[list[int]]  # of layers that are read together: a pass each
    counts: int  # of firing, of the largest group
    readings: int  # features and mean residuals, of the largest group

    @property
    def host(self) -> int:
        return max(self.counts, self.readings)

    def __str__(self):
        n, most = len(self.groups), max(map(len, self.groups), default=0)
        one = "all layers in one pass" if n == 1 else f"{n} passes, {most} layers at most in each"
        return (
            f"{one}; counts take {gb(self.counts)} of this machine's memory, readings "
            f"{gb(self.readings)}"
        )


def plan_readings(
    suite, layers: Collection[int], texts: int, features: int, rows: int, most: int = READING_BYTES
) -> ReadingPlan:
    """Layers in as few groups as keep the readings of one group below `most` bytes.

    suite: a scope or a group of the catalog; texts: how many are read; features: how many of each
    layer; rows: of counts that are made for each feature (languages, labels, shuffles).
    """
    layers = list(layers)
    one = 4 * texts * (suite.d_model + features)
    passes = -(-len(layers) // max(1, most // max(1, one)))
    size = -(-len(layers) // max(1, passes))
    groups = [layers[i : i + size] for i in range(0, len(layers), max(1, size))]
    return ReadingPlan(groups, 8 * rows * suite.d_sae * size, one * size)


class TrainingPlan(NamedTuple):
    """What `train_suite` takes: bytes, but for `layers` and `tokens`, and FLOPs.

    The model stays on the device while SAEs are trained there one after the other, so the device
    holds it and the largest of `harvest`, `start`, `step` and `splice`, which are never there
    together.
    """

    layers: int  # that get an SAE
    tokens: int  # that each training sees; texts may hold fewer, which are then read again
    on_cpu: bool  # the device is the host: its memory holds `mixed` too
    shards: int  # on disk: residuals in the model's dtype, at most
    checkpoints: int  # on disk: of each layer until all are done, and one that is half written
    saes: int  # on disk: the float32 files of the suite
    model: int  # the weights, in the model's dtype
    harvest: int  # residuals of a forward pass, and copies of one layer's
    start: int  # the first tensors, and the sample that they are made from
    step: int  # float32 weights, gradients and two moments; scores of a batch
    splice: int  # to measure the loss added: an SAE, a chunk of it, and the logits of a batch
    mixed: int  # of the host: residuals that are shuffled together, while they are joined
    reading: int  # FLOPs of the model, up to the deepest layer, at most
    training: int  # FLOPs of all steps
    measuring: int  # FLOPs of the host, where the quality of an SAE is taken, at most
    adam: int  # bytes that Adam reads and writes in all steps
    traffic: int  # bytes of shards, written and read

    @property
    def disk(self) -> int:
        """The most that lies on the disk at once, held-out residuals not counted."""
        return self.shards + self.checkpoints + self.saes

    @property
    def device(self) -> int:
        """What a training needs on its device: the one number."""
        work = max(self.harvest, self.start, self.step, self.splice)
        return self.model + work + self.mixed * self.on_cpu

    def hours(
        self, reading_flops: float = BFLOAT16_FLOPS, training_flops: float = FLOAT32_FLOPS
    ) -> float:
        """Hours at these throughputs in FLOP/s: planned, not measured.

        Adam goes at the memory's pace, the host and the disk at theirs, and nothing overlaps. Left
        out are loading, sorting, AuxK, which at most doubles `training`, held-out texts, and a
        checkpoint every two minutes.
        """
        seconds = self.reading / reading_flops + self.training / training_flops
        seconds += self.adam / HBM_BYTES + self.measuring / HOST_FLOPS + self.traffic / DISK_BYTES
        return seconds / 3600

    def __str__(self):
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        return (
            f"{self.tokens:,} tokens at {layers}; disk {gb(self.disk)} at most: residuals "
            f"{gb(self.shards)}, checkpoints {gb(self.checkpoints)}, SAEs {gb(self.saes)}; "
            f"memory {gb(self.device)}"
        )


def training_plan(
    group: Group | str,
    layers: Collection[int],
    d_sae: int,
    k: int,
    tokens: int,
    model_dtype: str = "bfloat16",
    *,
    device="cuda",
    batch_tokens: int = BATCH_TOKENS,
) -> TrainingPlan:
    """What training SAEs of `layers` needs (notebook 10), for the model of `group`.

    layers         counted from 0; their SAEs need not exist
    d_sae, k       of the new SAEs;  tokens: that each training sees
    the rest       as in `memory_plan`

    A dense product of [n, a] and [a, b] takes 2nab FLOPs. For each token:

    reading    2 x the parameters that it meets, embeddings included, attention scores not. The
               pass ends after the deepest layer, so their share is (deepest + 1) / n_layers. Of a
               mixture of experts a token meets those that the name says, "A3B".
    training   x W_enc.T forward and its gradient for W_enc backward, dense, as the gradient of
               the scores is a dense matrix: 4 d_model d_sae. x needs no gradient. k rows of W_dec
               forward, and backward for the rows and for their weights: 6 k d_model.
    measuring  x W_enc.T on the host, of MEASURED and FIRED_IN tokens at most: 2 d_model d_sae.

    In a step Adam reads and writes weights, gradients and two moments: 32 bytes a parameter. W_dec
    is there once more when it is normalised, or when AuxK adds its gradient.

    ValueError for a layer that the model lacks, none, and for a number below 1 or a k above d_sae;
    as `memory_plan` for a dtype.
    """
    group = get_group(group) if isinstance(group, str) else group
    layers = tuple(sorted(set(layers)))
    if not layers or layers[0] < 0 or layers[-1] >= group.n_layers:
        raise ValueError(f"layers are {list(layers)}; choose some of 0 to {group.n_layers - 1}")
    for name, number in (("d_sae", d_sae), ("k", k), ("tokens", tokens)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
    if k > d_sae:
        raise ValueError(f"k is {k}; choose from 1 to d_sae, which is {d_sae}")
    group = replace(group, d_sae=d_sae, k=k, some_layers=layers)
    plan = memory_plan(group, layers, model_dtype, device=device, batch_tokens=batch_tokens)
    n, width, steps = len(layers), group.d_model, max(1, tokens // BATCH)
    saves = steps // (SAVED_EVERY // BATCH)
    matrix, sae, sample = 4 * width * d_sae, group.layer_bytes, 4 * width * min(SAMPLE, tokens)
    checkpoint = 3 * sae + 4 * d_sae  # weights, two moments, and when each feature fired last
    token = width * DTYPE_BYTES[model_dtype]
    shards = n * tokens * token
    named = re.search(r"-A([\d.]+)B\b", group.model_repo.split("/")[-1])
    met = float(named[1]) * 1e9 if named else group.n_params
    return TrainingPlan(
        layers=n,
        tokens=tokens,
        on_cpu=plan.on_cpu,
        shards=shards,
        checkpoints=checkpoint * (n * (saves > 0) + (saves > 1)),
        saes=sae * n,
        model=plan.model,
        harvest=plan.residuals,
        start=max(matrix + 3 * sample, 3 * matrix + 2 * sample),
        step=4 * sae + matrix + 4 * BATCH * (2 * d_sae + 3 * width),
        splice=plan.sae_layer + plan.chunk + plan.logits,
        mixed=2 * max(token * min(MIXED, tokens), min(SHARD_BYTES, shards)),
        reading=round(2 * met * tokens * (layers[-1] + 1) / group.n_layers),
        training=n * steps * BATCH * (4 * width * d_sae + 6 * k * width),
        measuring=n * 2 * width * d_sae * (MEASURED + min(FIRED_IN, tokens)),
        adam=n * steps * 32 * (sae // 4),
        traffic=2 * shards,
    )


def refuse_too_large(group: Group, dtype: str, device, batch_tokens: int, cache_bytes: int) -> None:
    """MemoryError, with the plan, what is free and the way out, if not even one SAE can be used.

    Less than the plan but more than its least is let through: of what a run does then, a scan
    refuses by itself, and a smaller batch may do.
    """
    free, limits = free_bytes(device), {"batch_tokens": batch_tokens, "cache_bytes": cache_bytes}
    plan = memory_plan(group, None, dtype, device=device, **limits)
    if free is not None and plan.least > free:
        saes, one = (f"SAEs {gb(plan.saes)}, ", "one SAE and ") if group.layers else ("", "")
        raise MemoryError(
            f"{group.model_repo} needs {gb(plan.device)} on {device}: model {gb(plan.model)} in "
            f"{dtype}, {saes}work {gb(plan.device - plan.model - plan.saes)}; at "
            f"the least, with {one}short texts, {gb(plan.least)}; {gb(free)} is free; "
            + way_out(free, dtype, device)
        )


def way_out(free: int, dtype: str, device, layers: Collection[int] | None = None) -> str:
    """What to do where a plan does not fit: settings, and the groups whose plan does."""

    def fits(group: Group) -> bool:
        few = None if layers is None else group.layers[: len(layers)]
        return memory_plan(group, few, dtype, device=device).device <= free

    less = "dtype='bfloat16' halves the model, " if dtype == "float32" else ""
    small = ", ".join(name for name, group in GROUPS.items() if fits(group)) or "tiny"
    return f"{less}a smaller batch_tokens the logits; groups that fit: {small}"


def kind(device) -> str:
    """ "cuda" of the torch device, or the name, "cuda:1"."""
    return str(device).partition(":")[0]


def free_bytes(device="cpu") -> int | None:
    """Bytes free now on "cpu" or on a "cuda" device, whose cache is emptied; None for any other."""
    if kind(device) == "cuda":
        import torch  # who has a device of it has it loaded

        torch.cuda.empty_cache()  # what torch keeps of freed tensors is free for us
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available if kind(device) == "cpu" else None


def gb(n_bytes: int) -> str:
    """Bytes as "2.1 GB", or as "12 MB" below 100 MB."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
