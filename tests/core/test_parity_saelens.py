"""The official convention against SAELens, on random weights."""

import pytest
import torch
from peers import random_pair

from qs_helpers.scoring import fvu

# d_model, d_sae, k, tokens; the last is the real size of Qwen3-1.7B at k 50.
SHAPES = [(4, 8, 1, 3), (16, 64, 8, 5), (128, 1024, 16, 40), (256, 2048, 100, 7)]
REAL = (2048, 32768, 50, 16)


@pytest.fixture(scope="module")
def saelens():
    # Here and not on top of the file: the import takes many seconds.
    reason = "sae-lens is not installed: pip install 'qs-helpers[interop]'"
    return pytest.importorskip("sae_lens.saes.topk_sae", reason=reason)


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
