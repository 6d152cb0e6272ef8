"""One step of training a TopK SAE, on the same activations as SAELens's trainer.

Both compute in float32, with Adam, AuxK on (no feature is silent yet), and keep count of what
fired. Peers: `SAETrainer.step` with `TopKTrainingSAE` as it comes, with dense activations; and with
the sparse ones that it offers, which need `rescale_acts_by_decoder_norm` off on a CPU.
"""

import functools
import warnings
from types import SimpleNamespace

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from timing import Row, compared, interleaved
from torch.nn.functional import normalize

from qs_helpers.training import Recipe
from qs_helpers.training.trainer import advance, begin

WIDTHS = (128, 1024, 48), (576, 4608, 32)  # d_model, d_sae, k: the tiny suites, smollm2
BATCHES = 512, 4096
STEPS = 10**6  # far more than are timed, so that no rate of learning falls
TARGET = 1.3


def residuals(tokens: int, d_model: int) -> torch.Tensor:
    """Sums of 16 of 4 * d_model directions, and noise."""
    draw = torch.Generator().manual_seed(d_model)
    directions = normalize(torch.randn(4 * d_model, d_model, generator=draw), dim=1)
    chosen = torch.randint(4 * d_model, (tokens, 16), generator=draw)
    x = directions[chosen].sum(1)
    return x + 0.1 * torch.randn(tokens, d_model, generator=draw)


def ours(x, d_sae: int, k: int):
    """A function that trains for one step."""
    recipe = Recipe(d_sae, k, STEPS * len(x), len(x))
    held = SimpleNamespace(state=begin(x, recipe))

    def step():
        held.state = advance(held.state, x, recipe)

    return step


def lens(x, d_sae: int, k: int, sparse: bool):
    """The same of SAELens."""
    config = TopKTrainingSAEConfig(
        d_in=x.shape[1],
        d_sae=d_sae,
        k=k,
        apply_b_dec_to_input=False,
        use_sparse_activations=sparse,
        rescale_acts_by_decoder_norm=not sparse,
    )
    about = SAETrainerConfig(STEPS * len(x), len(x), lr=1e-3, lr_end=1e-4)
    trainer = SAETrainer(about, TopKTrainingSAE(config), iter([]))
    return functools.partial(trainer.step, x)


def training(widths=WIDTHS, batches=BATCHES) -> list[Row]:
    """Tokens a second of one step; on the CPU, where ours trains."""
    rows = []
    for d_model, d_sae, k in widths:
        for batch in batches:
            x = residuals(batch, d_model)
            tasks = {
                "ours": ours(x, d_sae, k),
                "sae-lens": lens(x, d_sae, k, sparse=False),
                "sae-lens, sparse": lens(x, d_sae, k, sparse=True),
            }
            with warnings.catch_warnings():  # torch's, about checks of sparse tensors
                warnings.simplefilter("ignore")
                times = interleaved(tasks)
            what = "training", f"one step of {batch:,} tokens", f"{d_model} × {d_sae}, k {k}"
            for peer in list(times)[1:]:
                rows.append(compared(*what, times, "ours", peer, "time", TARGET, n=batch))
    return rows
