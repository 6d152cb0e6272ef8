"""A random Qwen3 of three layers to harvest from, shards of given residuals, and a toy to learn.

The `Z` of this model is an attention sink at every layer: its embedding is very large.
"""

import random
from pathlib import Path

import pytest
import torch
from suites import add_bos, write_model
from torch.nn.functional import normalize

from qs_helpers.loading import load_language_model
from qs_helpers.training import shards

CONTEXT = 24  # tokens


def small_lm(folder: Path, batch_tokens: int = 200):
    """The model in a folder that `write_model` wrote, with its sink."""
    lm = load_language_model(folder, dtype="float32", batch_tokens=batch_tokens)
    lm.model.get_input_embeddings().weight[lm.own_ids(["Z"])[0]] *= 300
    return lm


@pytest.fixture(scope="session")
def lm(tmp_path_factory):
    return small_lm(write_model(tmp_path_factory.mktemp("lm") / "small"))


@pytest.fixture(scope="session")
def lm_with_bos(tmp_path_factory):
    return small_lm(add_bos(write_model(tmp_path_factory.mktemp("lm") / "begun")))


def some_texts(n: int, seed: int = 0) -> list[str]:
    """Texts of 2 to 60 tokens, one a letter, about one in fifty a sink."""
    chance = random.Random(seed)
    letters = "abcdefghijklm nopqrstuvwxy" * 2 + "Z"
    return ["".join(chance.choices(letters, k=chance.randint(2, 60))) for _ in range(n)]


def write_shards(folder: Path, x: torch.Tensor, sizes=(), layer: int = 0) -> shards.Shards:
    """Residuals x [tokens, d_model] as shards of these sizes (none: one of all)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(x.split(list(sizes) or [len(x)])):
        note = {"texts": 1, "digest": "", "tokens": len(part), "sinks": 0}
        note |= {"layers": [layer], "d_model": x.shape[1]}
        tensors = {f"layer.{layer}": part.clone()}
        shards._write(folder / f"{number:05}.safetensors", tensors, note)
    return shards.Shards(folder)


def sparse_data(seed: int, n: int, d_model: int = 32, directions: int = 64, active: int = 3):
    """Residuals [n, d_model] that are sums of `active` of some directions [directions, d_model], a
    little noise, and an offset; and the directions."""
    noise = torch.Generator().manual_seed(seed)
    unit = normalize(torch.randn(directions, d_model, generator=noise), dim=1)
    which = torch.rand(n, directions, generator=noise).topk(active).indices
    size = 1 + torch.rand(n, active, generator=noise)
    x = torch.zeros(n, directions).scatter(1, which, size) @ unit
    return 5 * (x + 0.02 * torch.randn(n, d_model, generator=noise)) + 1, unit
