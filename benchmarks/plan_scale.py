"""What a scan of very many tokens takes: the table of docs/scale.md, planned.

    python benchmarks/plan_scale.py                       10^9 tokens, 64 layers of Qwen3.5-27B
    python benchmarks/plan_scale.py qwen3-8b-l50 1e8      another group, other tokens

Nothing here was run at that size. Bytes follow from the memory plan and from what a shard holds,
hours from FLOPs at the throughputs that loading/memory.py states.
"""

import math
import sys
from typing import NamedTuple

from qs_helpers.loading.catalog import Group, get_group
from qs_helpers.loading.memory import BFLOAT16_FLOPS, DISK_BYTES, FLOAT32_FLOPS, gb, memory_plan
from qs_helpers.views.tables import EDGES, ROW, SAMPLE, TOP

CARDS = {"80 GB": 80e9, "141 GB": 141e9}
CHARS = 4  # of a token of English
SHARD_TOKENS = 16_000_000
# Measured, 82k features, 50 a token, one core of a 2-core machine that was busy: counting a part
# of 1,638 tokens (median, and mean of the first 400 parts), reading a layer of a shard to merge
# it, sorting the contexts that are kept of a layer.
COUNTED, COUNTED_FIRST, TAKEN, SORTED = 0.013, 0.079, 0.3, 15.0  # seconds


class ScalePlan(NamedTuple):
    """Bytes, FLOPs and seconds, but for counts. Of all layers, unless said otherwise."""

    at_once: int  # layers whose SAEs a card keeps beside the model
    lists: int  # of tasks, one for each so many layers; each reads all texts
    shards: int  # of a list
    shard_layer: int  # bytes of one layer of one shard, at most
    disk: int  # bytes of all shards, at most
    merged: int  # bytes of the scans that are made of them
    texts: int  # bytes of the texts of all lists
    reading: float  # FLOPs of the model: a pass for each list, up to its deepest layer
    encoding: float  # FLOPs of the SAEs
    parts: int  # of all layers
    reread: int  # bytes of SAE files, if a card kept one layer at a time
    merging: float  # seconds of one core and one disk

    @property
    def hours(self) -> tuple[float, float, float]:
        """Of a card: the model, the SAEs; of a core beside it: counting."""
        seconds = self.reading / BFLOAT16_FLOPS, self.encoding / FLOAT32_FLOPS, self.parts * COUNTED
        return tuple(second / 3600 for second in seconds)


def scale_plan(
    group: Group, tokens: float, card_bytes: float, shard_tokens: int = SHARD_TOKENS
) -> ScalePlan:
    """Layers are split into as few lists of tasks as keep each list's SAEs on the card.

    A dense model is meant: a token meets all parameters, 2 FLOPs each; attention scores are left
    out. An SAE takes 2 d_model d_sae. Of a feature a shard keeps two sums, a histogram and at most
    TOP + SAMPLE contexts, and 4 bytes of each token.
    """
    whole = memory_plan(group).sae_layers
    sizes = range(1, len(group.layers) + 1)
    fits = [
        n
        for n in sizes
        if memory_plan(group, group.layers[:n], cache_bytes=whole).device <= card_bytes
    ]
    if not fits:
        raise ValueError(f"{group.name} needs more than {gb(card_bytes)} for one layer")
    at_once, n = max(fits), len(group.layers)
    deepest = [group.layers[min(i + at_once, n) - 1] + 1 for i in range(0, n, at_once)]
    shards, feature = math.ceil(tokens / shard_tokens), 8 * (2 + len(EDGES) - 1)
    layer = group.d_sae * (feature + (TOP + SAMPLE) * ROW.itemsize)
    ids, parts = 4 * tokens * len(deepest), math.ceil(tokens / memory_plan(group).tokens) * n
    disk = round(shards * n * layer + ids)
    sorts = 1 + math.ceil(math.log2(shards))
    return ScalePlan(
        at_once=at_once,
        lists=len(deepest),
        shards=shards,
        shard_layer=layer,
        disk=disk,
        merged=round(n * layer + ids),
        texts=round(CHARS * tokens * len(deepest)),
        reading=2 * group.n_params * tokens * sum(deepest) / group.n_layers,
        encoding=2.0 * group.d_model * group.d_sae * n * tokens,
        parts=parts,
        reread=parts * group.layer_bytes,
        merging=disk / DISK_BYTES + n * (shards * TAKEN + sorts * SORTED),
    )


def table(name: str = "qwen3.5-27b-l50", tokens: float = 1e9) -> str:
    """Markdown: a row for each quantity, a column for each card."""
    group = get_group(name)
    plans = [scale_plan(group, tokens, size) for size in CARDS.values()]
    small = scale_plan(group, tokens, CARDS["80 GB"], shard_tokens=250_000)
    rows = [
        (
            "layers whose SAEs stay on the card",
            [p.at_once for p in plans],
            "planned: `memory_plan`",
        ),
        ("lists of tasks, each a pass over the texts", [p.lists for p in plans], "computed"),
        (
            "tasks",
            [p.lists * p.shards for p in plans],
            f"computed: {plans[0].shards} shards a list",
        ),
        ("card: the model, bfloat16", [_h(p.hours[0]) for p in plans], "planned"),
        ("card: the SAEs, float32", [_h(p.hours[1]) for p in plans], "planned"),
        ("core beside it: counting", [_h(p.hours[2]) for p in plans], "13 ms measured, computed"),
        ("a task, of all three", [_h(sum(p.hours) / p.lists / p.shards) for p in plans], "planned"),
        ("texts", [gb(p.texts) for p in plans], f"computed: {CHARS} bytes a token"),
        ("shards, at most", [_tb(p.disk) for p in plans], "computed"),
        ("the scans made of them", [gb(p.merged) for p in plans], "computed"),
        ("merging, one core and 1 GB/s", [_h(p.merging / 3600) for p in plans], "planned"),
    ]
    lines = [
        f"| {group.name}, {tokens:,.0f} tokens | " + " | ".join(CARDS) + " | |",
        "|---" * 4 + "|",
    ]
    for what, values, how in rows:
        lines.append(f"| {what} | " + " | ".join(map(str, values)) + f" | {how} |")
    lines += [
        "",
        f"A layer of a shard is {plans[0].shard_layer / group.d_sae:,.0f} bytes × {group.d_sae:,} "
        f"features = {gb(plans[0].shard_layer)} at most. With the default of 1,000,000 characters "
        f"({small.shards:,} shards) all shards would be {_tb(small.disk)}; with SAEs read anew for "
        f"every part, as `cache_bytes` has it by default, {small.reread / 1e15:.0f} PB would be "
        "read.",
    ]
    return "\n".join(lines)


def _h(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _tb(n_bytes: float) -> str:
    return f"{n_bytes / 1e12:.1f} TB" if n_bytes >= 1e12 else gb(n_bytes)


if __name__ == "__main__":
    given = sys.argv[1:]
    print(table(*given[:1], *map(float, given[1:2])))
