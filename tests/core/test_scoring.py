"""Measures of models and SAEs against plain loops, one text at a time, without batches or hooks."""

import copy
import math
from types import SimpleNamespace

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from drawn import drawn_requests
from suites import begun

import qs_helpers as qs
from qs_helpers.hooks import decoder_layers
from qs_helpers.sae import TopKSAE
from qs_helpers.scoring import (
    BUCKETS,
    check_reading,
    compare_readings,
    continuation_nats,
    cross_entropy,
    feature_attribution,
    fvu,
    gradients,
    kl_by_position,
    kl_tables,
    log_odds,
    nearest,
    token_cross_entropy,
)
from qs_helpers.tiny import corpus

PROMPTS = ["the cook buys the bread.", "a", "le chat", "кто покупает хлеб?"]
AFTER = [" the king eats.", " b c d e", " mange la soupe.", " король."]


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def scope():
    scope = qs.load_scope("tiny")
    yield scope
    assert qs.hooks_left(scope.model) == 0


@pytest.fixture(scope="module")
def steer(scope):
    return {3: qs.add(torch.ones(128), 0.6, qs.scales(scope, PROMPTS, [3])[3])}


@pytest.fixture(scope="module")
def instruct():
    return qs.load_scope("tiny-instruct")


@pytest.fixture(scope="module")
def chats(instruct):
    found = drawn_requests({"discovery": 6}, ["en", "ja"])
    return [[instruct.chat(r.text) for r in found["discovery", bad]] for bad in (True, False)]


@pytest.fixture(scope="module")
def scales(instruct, chats):
    return qs.scales(instruct, chats[1])


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


def test_fvu_equals_the_loop(rng):
    x = torch.randn(2, 9, 5, generator=rng)
    y = x + 0.3 * torch.randn(2, 9, 5, generator=rng)
    keep = torch.rand(2, 9, generator=rng) > 0.3
    expected = naive.fvu(x.view(18, 5).tolist(), y.view(18, 5).tolist(), keep.view(18).tolist())
    assert fvu(x, y, keep) == pytest.approx(expected, rel=1e-9)
    assert fvu(x, x) == 0
    assert fvu(x, x.mean((0, 1)).expand_as(x)) == pytest.approx(1, rel=1e-6)


def test_fvu_is_accurate_far_from_the_origin():
    # In float32 the mean of these would swallow the differences.
    x = 1e4 + torch.tensor([[0.0], [1.0], [2.0]])
    assert fvu(x, x + 0.5) == pytest.approx(0.75 / 2, rel=1e-9)


def test_fvu_names_what_is_wrong():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"x \(3, 2\) and x_hat \(2, 2\)"):
        fvu(x, x[:2])
    with pytest.raises(ValueError, match="two different tokens, 3 kept do not vary"):
        fvu(x, x)
    with pytest.raises(ValueError, match="two different tokens, 0 kept"):
        fvu(x, x, torch.zeros(3))
    with pytest.raises(ValueError, match="NaN or inf in x_hat"):
        fvu(torch.eye(3), torch.full((3, 3), math.inf))


def test_token_cross_entropy_equals_the_loop(rng):
    logits = 3 * torch.randn(2, 6, 11, generator=rng)
    ids = torch.randint(11, (2, 6), generator=rng)
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    for row, got in enumerate(token_cross_entropy(logits, ids, mask)):
        want = naive.cross_entropy(
            logits[row].tolist(), ids[row].tolist(), mask[row].bool().tolist()
        )
        assert got.tolist() == pytest.approx(want, rel=1e-5, nan_ok=True)
    assert token_cross_entropy(logits, ids, mask)[1].isnan().tolist() == [True, True] + [False] * 3
    assert not token_cross_entropy(logits, ids).isnan().any()


def test_cross_entropy_asks_the_model_once(rng):
    logits = torch.randn(1, 4, 7, generator=rng)
    calls = []

    def model(**kwargs):
        calls.append(kwargs)
        return SimpleNamespace(logits=logits)

    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(cross_entropy(model, ids), token_cross_entropy(logits, ids))
    assert len(calls) == 1 and calls[0]["use_cache"] is False


def autoencoder(rng, convention="official"):
    """An SAE that reconstructs its own residuals well when read as `convention`."""
    dictionary = torch.nn.functional.normalize(torch.randn(64, 16, generator=rng), dim=1)
    bias = torch.randn(16, generator=rng)
    centred = convention in ("centered", "openinterpretability")
    sae = TopKSAE(
        dictionary,
        dictionary.T.contiguous(),
        # Either way the encoder must see the residual without its offset.
        torch.zeros(64) if centred else -dictionary @ bias,
        bias,
        k=1,
        convention=convention,
        layer=3,
    )
    one = dictionary[torch.randint(64, (200,), generator=rng)]
    return sae, bias + 5 * one


@pytest.mark.parametrize("convention", ["official", "centered"])
def test_the_better_reading_is_named(rng, convention):
    sae, x = autoencoder(rng, convention)
    other = {"official": "centered", "centered": "official"}[convention]
    readings = check_reading(sae, x)
    assert [r.convention for r in readings] == [convention, other]
    assert readings[0].layer == 3 and readings[0].fvu < readings[1].fvu
    assert readings[0].fvu == fvu(x, sae.reconstruct(x))
    with pytest.raises(
        ValueError, match=f"read as '{other}' at layer 3.*'{convention}' at layer 3"
    ):
        check_reading(sae.read_as(other), x)


def test_a_wrong_layer_is_named(rng):
    sae, x = autoencoder(rng)
    noise = {2: torch.randn(200, 16, generator=rng), 3: torch.randn(200, 16, generator=rng)}
    assert check_reading(sae, {2: noise[2], 3: x, 4: noise[3]})[0][:2] == ("official", 3)
    with pytest.raises(ValueError, match="at layer 3 has FVU .* as 'official' at layer 4 only"):
        check_reading(sae, noise | {4: x})
    with pytest.raises(ValueError, match=r"residuals of layers \[2, 4\] miss layer 3"):
        check_reading(sae, {2: noise[2], 4: x})


def test_readings_leave_sinks_out(rng):
    sae, x = autoencoder(rng)
    with_sink = torch.cat([1000 * torch.randn(1, 16, generator=rng), x])
    assert compare_readings(sae, with_sink) == compare_readings(sae, x)


def test_readings_of_other_layouts(rng):
    sae, x = autoencoder(rng, "openinterpretability")
    assert {r.convention for r in compare_readings(sae, x)} == {
        "transposed",
        "openinterpretability",
    }
    scaled = sae.read_as("leoninverse")
    assert [r.convention for r in compare_readings(scaled, x)] == ["leoninverse"]
    scaled.input_scale = 0.1
    both = compare_readings(scaled, x)
    assert [r.convention for r in both] == ["leoninverse without its input scale", "leoninverse"]


def test_a_reading_that_explains_little_refutes_none(rng):
    sae, x = autoencoder(rng)
    other = x.roll(1, 0) + 3 * torch.randn(x.shape, generator=rng)
    assert check_reading(sae, {3: other, 4: other / 2})[0].fvu > 0.6
    near = {3: x, 4: x + 0.001 * torch.randn(x.shape, generator=rng)}
    check_reading(sae, near)


# ---- divergence and surprisal, teacher-forced


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


def test_kl_tables_equal_one_by_one_and_nats_are_those_of_the_edited_model(instruct, chats, scales):
    own = qs.generate(instruct, chats[1], max_new_tokens=6)
    steers = {d: {1: qs.add(torch.ones(128), d, scales[1])} for d in (0.1, 0.3)}
    tables = kl_tables(instruct, chats[1], own, steers)
    for strength, steer in steers.items():
        pd.testing.assert_frame_equal(
            tables[strength], kl_by_position(instruct, chats[1], own, steer)
        )
        nats = np.concatenate(continuation_nats(instruct, chats[1], own, steer))
        assert np.allclose(tables[strength].nats, nats)


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


def test_bad_input(scope):
    with pytest.raises(ValueError, match="2 prompts but 1 continuations"):
        continuation_nats(scope, ["a", "b"], ["c"])


# ---- log-odds of the next token


def test_token_odds_are_log_odds(scope):
    tokens, prompt = torch.tensor([300, 301]), "the cook buys"
    p = scope.model(**scope.tokens(prompt)).logits[0, -1].double().softmax(-1)[tokens].sum()
    found = qs.token_odds(scope, [prompt, "a"], tokens)
    assert found[0] == pytest.approx(float((p / (1 - p)).log()), abs=1e-3)


def test_log_odds_equal_the_reference(instruct, chats):
    asked = chats[0]
    tokens = torch.tensor([3, 77, 400])
    found = qs.token_odds(instruct, asked, tokens)
    for text, value in zip(asked, found, strict=True):
        logits = instruct.model(**instruct.tokens(text)).logits[0, -1].double().tolist()
        assert value == pytest.approx(naive.odds(logits, tokens.tolist()), abs=1e-4)
    # In the arithmetic itself, given the same logits, they agree to 1e-6.
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0)) * 4
    rows = [naive.odds(row.double().tolist(), [1, 4]) for row in logits]
    assert np.allclose(log_odds(logits, torch.tensor([1, 4])).numpy(), rows, atol=1e-6)


def test_output_effects_are_changes_of_log_odds(scope):
    prompts, tokens = ["the cook buys", "who"], torch.tensor([300, 301, 302])
    stories = corpus.documents(10, "discovery", 0, ["story"], ("en",))
    scale = qs.scales(scope, [t.text for t in stories], [3])[3]
    directions = qs.random_directions(3, 128)
    found = qs.output_effects(scope, directions, scale, 0.5, prompts, tokens)

    def odds(prompt, steer):
        with qs.edit(scope.model, steer):
            p = scope.model(**scope.tokens(prompt)).logits[0, -1].double().softmax(-1)
        inside = p[tokens].sum()
        return float((inside / (1 - inside)).log())

    for v, effect in zip(directions, found, strict=True):
        steer = {3: qs.add(v, 0.5, scale)}
        assert effect == pytest.approx(
            np.mean([odds(p, steer) - odds(p, {}) for p in prompts]), abs=1e-3
        )


# ---- features


def test_nearest_features_are_the_largest_cosines(scope):
    found = nearest(scope, 2, 5, n=3)
    W = scope.sae(2).W_dec
    cosines = (W.T @ W[:, 5]) / W.norm(dim=0) / W[:, 5].norm()
    cosines[5] = -1
    assert found.feature.tolist() == cosines.topk(3).indices.tolist()
    assert nearest(scope, 2, 5, other=3).cosine.is_monotonic_decreasing


# ---- a tokenizer that puts tokens before a text


@pytest.mark.parametrize("tokens", [1, 2])
def test_nats_of_a_text_are_given_what_is_put_before_it(scope, tokens):
    scope = begun(scope, tokens)
    found = qs.text_nats(scope, [*PROMPTS, ""])
    for text, nats in zip(PROMPTS, found, strict=False):
        own = scope.own_ids([text])[0]
        ids = torch.tensor([*scope.prefix, *own])
        with torch.no_grad():
            logp = scope.model(ids[None]).logits[0, tokens - 1 : -1].log_softmax(-1)
        assert nats == pytest.approx(-logp.gather(1, ids[tokens:, None]).mean().item(), abs=1e-4)
    assert np.isnan(found[-1])


def test_nothing_is_put_between_a_prompt_and_its_continuation(scope):
    scope = begun(scope)
    for prompt, after, nats in zip(
        PROMPTS, AFTER, continuation_nats(scope, PROMPTS, AFTER), strict=True
    ):
        ids = torch.tensor([*scope.prefix, *scope.own_ids([prompt])[0], *scope.own_ids([after])[0]])
        with torch.no_grad():
            logp = scope.model(ids[None]).logits[0].log_softmax(-1)
        each = -logp[:-1].gather(1, ids[1:, None])[-len(nats) :, 0]
        assert nats == pytest.approx(each.numpy(), abs=1e-4)


# ---- gradients and attribution


@pytest.fixture(scope="module")
def asked(instruct):
    rows = drawn_requests({"discovery": 6}, ["en", "ja"])["discovery", True]
    return [instruct.chat(r.text) for r in rows]


def test_attribution_equals_the_reference(instruct, asked):
    tokens, text = torch.tensor([3, 77]), asked[0]
    (part,) = gradients(instruct, [text], tokens, [2])
    acts = naive.activations(instruct.sae(2), part.x[0, 1:])
    columns = instruct.sae(2).W_dec.T.tolist()
    wanted = naive.attribution(acts.tolist(), part.gradient[0, 1:].tolist(), columns)
    found = feature_attribution(instruct, [text], tokens, [2])[2]
    assert np.allclose(found.numpy(), wanted, atol=1e-6)


def test_gradients_are_those_of_the_log_odds(instruct, asked):
    """Against central differences of the same model in float64."""
    tokens, text = torch.tensor([3, 77]), asked[1]
    (part,) = gradients(instruct, [text], tokens, [2])
    model = copy.deepcopy(instruct.model).double()  # but for its norms, which stay in float32
    for place in (3, -1):
        direction, values = int(part.gradient[0, place].abs().argmax()), []
        for step in (0.5, -0.5):

            def moved(x, step=step, place=place, direction=direction):
                x = x.clone()
                x[0, place, direction] += step
                return x

            with torch.no_grad(), qs.edit(model, {2: moved}):
                logits = model(**instruct.tokens(text)).logits[0, -1].tolist()
            values.append(naive.odds(logits, tokens.tolist()))
        slope = values[0] - values[1]
        assert part.gradient[0, place, direction] == pytest.approx(slope, rel=1e-2)


def test_gradients_of_a_batch_are_those_of_each_prompt(instruct, asked):
    tokens = torch.tensor([3, 77])
    both = sorted(asked[:2], key=len)
    batch = list(gradients(instruct, both, tokens, [1]))
    assert sum(len(part.rows) for part in batch) == 2
    for part in batch:
        for place, row in enumerate(part.rows):
            (single,) = gradients(instruct, [both[row]], tokens, [1])
            own = part.gradient[place][part.real[place]]
            assert torch.allclose(own, single.gradient[0], atol=1e-5)
            assert (part.gradient[place][~part.real[place]] == 0).all()
