"""Teacher-forced numbers against one text at a time, without batches, padding or hooks."""

import numpy as np
import pytest
import torch

import qs_helpers as qs
from qs_helpers.hooks import decoder_layers
from qs_helpers.scoring import BUCKETS, continuation_nats
from qs_helpers.studies.steering import fluent, usual_nats

PROMPTS = ["the cook buys the bread.", "a", "le chat", "кто покупает хлеб?"]
AFTER = [" the king eats.", " b c d e", " mange la soupe.", " король."]


@pytest.fixture(scope="module")
def scope():
    scope = qs.load_scope("tiny")
    yield scope
    assert qs.hooks_left(scope.model) == 0


@pytest.fixture(scope="module")
def steer(scope):
    return {3: qs.add(torch.ones(128), 0.6, qs.scales(scope, PROMPTS, [3])[3])}


def alone(scope, prompt, after, steer=None, generated_only=False):
    """Log-probabilities at the continuation's tokens, one text, columns edited by hand."""
    first, second = scope.ids([prompt, after])
    handles = []
    for layer, edit in (steer or {}).items():

        def hook(module, args, output, edit=edit):
            new = edit(output)
            return (
                torch.cat([output[:, : len(first)], new[:, len(first) :]], 1)
                if generated_only
                else new
            )

        handles.append(decoder_layers(scope.model)[layer].register_forward_hook(hook))
    with torch.no_grad():
        logits = scope.model(torch.tensor([first + second])).logits[0]
    for handle in handles:
        handle.remove()
    return logits[len(first) - 1 : -1].double().log_softmax(-1), torch.tensor(second)


@pytest.mark.parametrize("positions", ["all", "generated"])
@pytest.mark.parametrize("steered", [False, True])
def test_continuation_nats(scope, steer, steered, positions):
    given = steer if steered else None
    found = continuation_nats(scope, PROMPTS, AFTER, given, positions)
    for prompt, after, nats in zip(PROMPTS, AFTER, found, strict=True):
        logp, ids = alone(scope, prompt, after, given, positions == "generated")
        assert nats == pytest.approx(-logp.gather(1, ids[:, None])[:, 0].numpy(), abs=1e-4)


@pytest.mark.parametrize("positions", ["all", "generated"])
def test_kl_by_position(scope, steer, positions):
    table = qs.kl_by_position(scope, PROMPTS, AFTER, steer, positions)
    for i, (prompt, after) in enumerate(zip(PROMPTS, AFTER, strict=True)):
        plain, _ = alone(scope, prompt, after)
        moved, _ = alone(scope, prompt, after, steer, positions == "generated")
        kl = (plain.exp() * (plain - moved)).sum(-1)
        rows = table[table.text == i]
        assert rows.place.tolist() == list(range(1, len(kl) + 1))
        assert rows.kl.to_numpy() == pytest.approx(kl.numpy(), abs=1e-4)
    if positions == "generated":  # the first token is predicted at the last one of the prompt
        assert (table[table.place == 1].kl == 0).all()


def test_kl_of_nothing_is_nothing_and_buckets_are_by_place(scope):
    still = {3: qs.add(torch.ones(128), 0.0, qs.scales(scope, PROMPTS, [3])[3])}
    text = " the cook eats the soup and the king reads a book." * 8
    table = qs.kl_by_position(scope, ["a"], [text], still)
    assert (table.kl == 0).all()
    for bucket, (low, high) in BUCKETS.items():
        places = table[table.bucket == bucket].place
        assert places.min() == low and places.max() == min(high, len(table))


def test_a_forbidden_token_gives_no_nan(scope, monkeypatch):
    """0 log 0 is 0; a token that only the steered model excludes makes the divergence infinite."""
    forward = scope.model.forward
    ids = scope.ids(["the cook eats the soup."])[0]

    def without(token, steps):
        def patched(*args, **kwargs):
            output = forward(*args, **kwargs)
            if next(steps):
                output.logits[..., token] = float("-inf")
            return output

        return patched

    still = {3: qs.add(torch.ones(128), 0.0, qs.scales(scope, PROMPTS, [3])[3])}
    for both, expected in (((True, True), 0.0), ((False, True), float("inf"))):
        monkeypatch.setattr(scope.model, "forward", without(7, iter(both)))
        table = qs.kl_by_position(scope, ["a"], [scope.tokenizer.decode(ids)], still)
        assert (table.kl == expected).all()
    monkeypatch.undo()


def test_text_nats(scope, steer):
    texts = [*PROMPTS, "", " ", "a"]
    for given in (None, steer):
        found = qs.text_nats(scope, texts, given)
        for text, nats in zip(texts, found, strict=True):
            ids = scope.ids([text])[0] if text.strip() else []
            if len(ids) < 2:
                assert np.isnan(nats)
                continue
            with qs.edit(scope.model, given or {}):
                alone = qs.cross_entropy(scope.model, torch.tensor([ids])).mean()
            assert nats == pytest.approx(float(alone), abs=1e-4)


def test_fluent_texts_are_like_real_ones_and_do_not_loop(scope):
    from qs_helpers.tiny import corpus

    real = [t.text for t in corpus.documents(80, "validation", 0, ["story"], ("en",))]
    limits = usual_nats(scope, real, 12)
    assert limits.shape == (13,) and np.isnan(limits[:2]).all() and (limits[2:] > 0).all()
    other = [t.text for t in corpus.documents(40, "test", 0, ["story"], ("en",))]
    cut = [scope.tokenizer.decode(ids[:12]) for ids in scope.ids(other)]
    assert fluent(scope, cut, limits).mean() > 0.8
    jumbled = [" ".join(reversed(text.split())) for text in cut]
    assert fluent(scope, jumbled, limits).mean() < 0.2
    assert not fluent(scope, ["", "a", "the cook eats. " * 4], limits).any()
    none = fluent(scope, cut, limits, among=np.zeros(len(cut), bool))
    assert not none.any()


def test_bad_input(scope):
    with pytest.raises(ValueError, match="2 prompts but 1 continuations"):
        continuation_nats(scope, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="none of 1 texts has 50 tokens"):
        usual_nats(scope, ["short"], 50)
