"""The official convention against SAELens, on random weights."""

import pytest
import torch

from qs_helpers.metrics import fvu
from qs_helpers.sae import TopKSAE

# d_model, d_sae, k, tokens; the last is the real size of Qwen3-1.7B at k 50.
SHAPES = [(4, 8, 1, 3), (16, 64, 8, 5), (128, 1024, 16, 40), (256, 2048, 100, 7)]
REAL = (2048, 32768, 50, 16)


@pytest.fixture(scope="module")
def saelens():
    # Here and not on top of the file: the import takes many seconds.
    reason = "sae-lens is not installed: pip install 'qs-helpers[interop]'"
    return pytest.importorskip("sae_lens.saes.topk_sae", reason=reason)


def random_pair(saelens, d_model, d_sae, k):
    """The same weights as our TopKSAE and as SAELens's."""
    g = torch.Generator().manual_seed(d_sae)
    ours = TopKSAE(
        W_enc=torch.randn(d_sae, d_model, generator=g) / d_model**0.5,
        W_dec=torch.nn.functional.normalize(torch.randn(d_model, d_sae, generator=g), dim=0),
        b_enc=torch.randn(d_sae, generator=g) / 10,
        b_dec=torch.randn(d_model, generator=g) / 10,
        k=k,
    )
    config = saelens.TopKSAEConfig(
        d_in=d_model, d_sae=d_sae, k=k, apply_b_dec_to_input=False, normalize_activations="none"
    )
    with torch.device("meta"):  # no second random initialisation of the big one
        theirs = saelens.TopKSAE(config)
    theirs.load_state_dict(
        {"W_enc": ours.W_enc.T, "W_dec": ours.W_dec.T, "b_enc": ours.b_enc, "b_dec": ours.b_dec},
        assign=True,
    )
    return ours, theirs


@pytest.mark.parametrize("shape", [*SHAPES, REAL], ids=lambda s: f"{s[0]}x{s[1]}-k{s[2]}")
def test_parity(saelens, shape):
    *sizes, tokens = shape
    ours, theirs = random_pair(saelens, *sizes)
    x = torch.randn(tokens, sizes[0], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        dense = theirs.encode(x)
        decoded = theirs.decode(dense)
    dense = dense.to_dense() if dense.is_sparse else dense
    acts = ours.encode(x)
    for row, values, indices in zip(dense, *acts, strict=True):
        active = values > 0
        assert set(indices[active].tolist()) == set(row.nonzero().flatten().tolist())
        assert (row[indices] - values).abs().max() <= 1e-5
    assert (ours.decode(acts) - decoded).abs().max() <= 1e-5
    assert fvu(decoded, ours.decode(acts)) < 1e-9
