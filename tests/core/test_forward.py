"""Pooled readings equal a loop over single texts; what cannot be tokenized is refused by name."""

import numpy as np
import pytest
import torch

import qs_helpers as qs
from qs_helpers.forward import batches, ends
from qs_helpers.tiny import corpus


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def texts():
    return [d.text for d in corpus.documents(12, "discovery")]


def by_hand(scope, text, layer):
    """One text, no batch, no padding: dense activations [tokens, d_sae], residuals, no sinks."""
    with qs.capture(scope.model, [layer]) as residuals:
        scope.model(**scope.tokens(text))
    x = residuals[layer][0]
    acts = scope.sae(layer).encode(x)
    dense = torch.zeros(len(x), scope.d_sae).scatter_(1, acts.indices, acts.values)
    return dense, x, ~qs.sink_mask(x)


def test_every_pool_equals_a_loop_over_single_texts(scope, texts):
    found = qs.read_texts(scope, texts, [2], ["peak", "mean", "last", "rate", "residual"])[2]
    for row, text in enumerate(texts):
        dense, x, keep = by_hand(scope, text, 2)
        kept = dense[keep]
        for pool, wanted in {
            "peak": kept.amax(0),
            "mean": kept.mean(0),
            "last": dense[-1] * keep[-1],
            "rate": (kept > 0).float().mean(0),
            "residual": x[keep].mean(0),
        }.items():
            got = getattr(found, pool)[row]
            assert np.allclose(got, wanted.numpy(), atol=2e-4), (pool, row)


def test_only_the_pools_that_were_asked_for_take_memory(scope, texts):
    found = qs.read_texts(scope, texts, [1, 3], ["peak"])
    assert list(found) == [1, 3]
    assert found[1].peak.shape == (len(texts), scope.d_sae)
    assert found[1].mean is found[1].last is found[1].rate is found[1].residual is None
    assert found[3].rows([0, 2]).peak.shape == (2, scope.d_sae)


def test_peaks_are_above_zero_exactly_where_a_feature_fires(scope, texts):
    found = qs.read_texts(scope, texts, [2], ["peak", "rate"])[2]
    assert ((found.peak > 0) == (found.rate > 0)).all()


def test_ends_are_the_last_tokens_of_each_text(scope, texts):
    seen = {}
    for layer, x, numbers in ends(scope, texts, 2, [2]):
        assert layer == 2 and x.shape[1:] == (2, scope.d_model)
        seen |= dict(zip(numbers, x, strict=True))
    for row, text in enumerate(texts):
        _, x, _ = by_hand(scope, text, 2)
        assert torch.allclose(seen[row], x[-2:], atol=1e-3)
    with pytest.raises(ValueError, match="so it has no last 5"):
        list(ends(scope, ["the cook"], 5, [2]))


def test_batches_hold_every_text_once_and_little_padding():
    lengths = {i: 5 + (i * 7) % 90 for i in range(200)}
    found = list(batches(lengths, 512))
    assert sorted(i for batch in found for i in batch) == list(range(200))
    for batch in found:
        padded = len(batch) * max(lengths[i] for i in batch)
        real = sum(lengths[i] for i in batch)
        assert padded <= 512 and (real >= 0.9 * padded or real < 512 / 4)
