"""A small SAE with random weights, and its file: for tests of the math and of file formats."""

import json

import torch

D_MODEL, D_SAE, K = 8, 40, 5


def weights(d_model=D_MODEL, d_sae=D_SAE, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "W_enc": torch.randn(d_sae, d_model, generator=g),
        "W_dec": torch.randn(d_model, d_sae, generator=g),
        "b_enc": torch.randn(d_sae, generator=g),
        "b_dec": torch.randn(d_model, generator=g),
    }


def save(folder, tensors=None, name="layer3.sae.pt", **config):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights() if tensors is None else tensors, folder / name)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / name
