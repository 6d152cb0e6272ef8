"""Passes that begin above a layer give what whole passes give, bit for bit."""

import numpy as np
import pytest
import torch
from suites import write_model, write_suite

import qs_helpers as qs
from qs_helpers.fast import reuse
from qs_helpers.fast.reuse import first_place, run_above
from qs_helpers.hooks import decoder_layers

TEXTS = ["The cat sat.", "A dog ran to the house.", "Rain"]


@pytest.fixture
def scope(tmp_path):
    model = write_model(tmp_path / "model", n_layers=4, dtype=torch.float32)
    return qs.load_scope(model=model, sae=write_suite(tmp_path / "sae", range(4), n_layers=4))


@pytest.fixture
def layers_run(scope):
    """How often the attention of each layer runs."""
    counts = [0] * 4
    for n, layer in enumerate(decoder_layers(scope.model)):

        def count(*_, n=n):
            counts[n] += 1

        layer.self_attn.register_forward_hook(count)
    return counts


def shift(size):
    return lambda x: x + size * torch.linspace(-1, 1, x.shape[-1])


def measures(scope, steer):
    ids = torch.tensor([5, 6, 7])
    return {
        "nats": qs.text_nats(scope, TEXTS, steer),
        "odds": qs.token_odds(scope, TEXTS, ids, steer),
        "sizes": qs.edit_sizes(scope, TEXTS, steer).to_numpy(),
        "texts": qs.generate(scope, TEXTS, steer, max_new_tokens=6, temperature=1.0),
        "prompt": qs.generate(scope, TEXTS, steer, "prompt", max_new_tokens=6),
        "later": qs.generate(scope, TEXTS, steer, "generated", max_new_tokens=6),
    }


STEERS = [
    {2: shift(0.5)},
    {2: shift(-3.0)},
    {1: shift(1.0), 3: shift(2.0)},
    {0: shift(1.0)},
    {"writes": shift(0.1)},
    {2: lambda x: x},
]


def test_results_are_the_same_bit_for_bit(scope):
    whole = [measures(scope, steer) for steer in STEERS]
    with qs.reuse_below(scope.model):
        for _ in range(2):  # the second time everything below has been kept
            for steer, wanted in zip(STEERS, whole, strict=True):
                for name, found in measures(scope, steer).items():
                    assert np.array_equal(found, wanted[name]), name
    assert any(whole[0]["texts"][i] != whole[1]["texts"][i] for i in range(3))
    assert qs.hooks_left(scope.model) == 0 and not reuse._open


def test_layers_below_run_once(scope, layers_run):
    with qs.reuse_below(scope.model):
        for _ in range(3):
            qs.text_nats(scope, TEXTS, {2: shift(0.5)})
        assert layers_run == [1, 1, 1, 3]
        qs.generate(scope, TEXTS, {1: shift(0.5)}, max_new_tokens=3)
        before = list(layers_run)
        qs.generate(scope, TEXTS, {1: shift(0.7)}, max_new_tokens=3)
        steps = [now - then for now, then in zip(layers_run, before, strict=True)]
        assert steps == [2, 2, 3, 3]  # the prompt is read above layer 1 only
    qs.text_nats(scope, TEXTS, {2: shift(0.5)})
    assert layers_run[0] - before[0] == 3  # nothing is kept after the block


def test_nothing_is_reused_under_another_hook_or_of_other_tokens(scope):
    steer, other = {2: shift(0.5)}, {0: shift(2.0)}
    with qs.edit(scope.model, other):
        wanted = qs.text_nats(scope, TEXTS, steer)
    with qs.reuse_below(scope.model):
        plain = qs.text_nats(scope, TEXTS, steer)
        with qs.edit(scope.model, other):
            assert np.array_equal(qs.text_nats(scope, TEXTS, steer), wanted)
        assert np.array_equal(qs.text_nats(scope, TEXTS, steer), plain)
        longer = qs.text_nats(scope, [t + " x" for t in TEXTS], steer)
    assert not np.array_equal(wanted, plain) and not np.array_equal(longer, plain)
    assert np.array_equal(longer, qs.text_nats(scope, [t + " x" for t in TEXTS], steer))


def test_what_is_kept_is_bounded_and_errors_leave_nothing(scope, monkeypatch):
    monkeypatch.setattr(reuse, "MOST_BYTES", 3000)
    with qs.reuse_below(scope.model), qs.reuse_below(scope.model):
        for n in range(5):
            qs.text_nats(scope, [f"some text {n}"], {1: shift(1.0)})
        kept = reuse._open[id(scope.model)].found
        assert 0 < sum(map(reuse._bytes, kept.values())) <= 3000 and len(kept) < 5

    def broken(x):
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"), qs.reuse_below(scope.model):
        qs.text_nats(scope, TEXTS, {1: shift(1.0)})
        qs.text_nats(scope, TEXTS, {1: broken})
    assert qs.hooks_left(scope.model) == 0 and not reuse._open


def test_run_above_refuses_a_cache_it_has_not(scope):
    batch = scope.tokens(TEXTS)
    with qs.capture(scope.model, [1]) as found:
        scope.model(**batch)
    with run_above(scope.model, 1, found[1]):
        assert qs.hooks_left(scope.model) == 2
        logits = scope.model(**batch, use_cache=False).logits
        with pytest.raises(RuntimeError, match="use_cache=False"):
            scope.model(**batch, use_cache=True)
    assert torch.equal(logits, scope.model(**batch, use_cache=False).logits)
    assert first_place({"writes": shift(1.0), 2: shift(1.0)}) is None
    assert first_place({3: 1, 2: 1}) == 2 and first_place({}) is None


def test_output_effects_are_those_of_single_passes(scope):
    directions, ids = torch.eye(16)[:5], torch.tensor([3, 4])
    scale = qs.scales(scope, TEXTS, [1])[1]
    found = qs.output_effects(scope, directions, scale, 2.0, TEXTS, ids)
    for row, direction in enumerate(directions):
        steer = {1: qs.add(direction, 2.0, scale)}
        wanted = qs.token_odds(scope, TEXTS, ids, steer) - qs.token_odds(scope, TEXTS, ids)
        assert found[row] == pytest.approx(wanted.mean(), abs=1e-5)
