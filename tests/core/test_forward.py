"""Pooled readings equal a loop over single texts; batches, parts and sinks are as stated."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from drawn import drawn_requests
from hypothesis import given
from hypothesis import strategies as st
from suites import add_bos, write_model, write_suite

import qs_helpers as qs
from qs_helpers import forward
from qs_helpers.forward import batches, ends, position_means, sink_mask, template_tokens
from qs_helpers.tiny import corpus


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def texts():
    return [d.text for d in corpus.documents(12, "discovery")]


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


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


class Record(NamedTuple):
    text: str
    language: str


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (b"a cat", "bytes"),
        ({"en": "a cat"}, "dict"),
        ({"a cat"}, "set"),
        (frozenset(["a cat"]), "frozenset"),
        (pd.DataFrame({"text": ["a cat"]}), "DataFrame"),
        (Record("a cat", "en"), "Record"),
    ],
)
def test_what_holds_texts_and_is_no_list_of_them_is_refused(scope, texts, kind):
    for call in (scope.ids, scope.tokens, lambda x: qs.read_texts(scope, x, [1])):
        with pytest.raises(ValueError, match=f"texts is of type {kind}; give a list of strings"):
            call(texts)
    with pytest.raises(ValueError, match=f"texts is of type {kind}"):
        next(qs.residuals(scope, texts, [1]))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: s.ids(x),
        lambda s, x: s.tokens(x)["input_ids"].tolist(),
        lambda s, x: qs.read_texts(s, x, [1], ["peak"])[1].peak.tolist(),
        lambda s, x: [p.ids.tolist() for p in qs.activations(s, x, [1])],
        lambda s, x: [numbers for *_, numbers in ends(s, x, 1, [1])],
        lambda s, x: qs.text_nats(s, x).tolist(),
        lambda s, x: qs.token_odds(s, x, torch.tensor([5, 6])).tolist(),
        lambda s, x: qs.edit_sizes(s, x, {1: lambda h: h + 1}).values.tolist(),
        lambda s, x: qs.kl_by_position(s, x, ["the"], {1: lambda h: h + 1}).values.tolist(),
        lambda s, x: qs.kl_by_position(s, ["the"], x, {1: lambda h: h + 1}).values.tolist(),
        lambda s, x: [float(scale.median) for scale in qs.scales(s, x, [1]).values()],
    ],
)
def test_a_str_is_one_text_and_an_iterator_is_read_once(scope, call):
    text = "the dog sees the cat"
    want = call(scope, [text])
    for same in (text, iter([text]), (t for t in [text]), pd.Series([text], index=[9]), (text,)):
        assert call(scope, same) == want


def test_no_texts_are_refused_or_give_no_rows(scope):
    assert qs.read_texts(scope, [], [1], ["peak"])[1].peak.shape == (0, scope.d_sae)
    assert qs.text_nats(scope, []).shape == (0,)
    for call in (qs.scales, lambda s, x: list(qs.residuals(s, x)), lambda s, x: s.ids(x)):
        with pytest.raises(ValueError, match="texts is empty; give at least one text"):
            call(scope, iter([]))


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


def test_readings_are_those_of_one_text_at_a_time(scope):
    texts = ["the cook buys the bread.", "a", "qui lit le livre ?"]
    found = qs.read_texts(scope, texts, [1, 4])
    for layer in (1, 4):
        sae = scope.sae(layer)
        for i, text in enumerate(texts):
            with qs.capture(scope.model, [layer]) as captured:
                scope.model(**scope.tokens(text))
            x = captured[layer][0]
            z = naive.activations(sae, x)
            assert found[layer].peak[i] == pytest.approx(z.amax(0).numpy(), abs=1e-2)
            assert found[layer].mean[i] == pytest.approx(z.mean(0).numpy(), abs=1e-2)
            assert found[layer].last[i] == pytest.approx(z[-1].numpy(), abs=1e-2)
            assert found[layer].residual[i] == pytest.approx(x.mean(0).numpy(), abs=1e-2)


@pytest.mark.parametrize("letters", ["a word or two ", "0123456789", "漢字仮名", "🙂🙃"])
def test_parts_are_cut_by_tokens(scope, letters, monkeypatch):
    monkeypatch.setattr(forward, "CHUNK_TOKENS", 300)
    texts = [letters * n for n in (1, 30, 2, 9, 1, 1, 60, 3)] * 3
    lengths = [len(ids) for ids in scope.ids(texts)]
    seen, first = [], 0
    for number, chunk in forward._chunks(scope, iter(texts), 300):
        assert number == first and (sum(map(len, chunk)) <= 300 or len(chunk) == 1)
        seen += [len(ids) for ids in chunk]
        first += len(chunk)
    assert seen == lengths


@given(st.lists(st.integers(1, 300), max_size=60), st.sampled_from([64, 400, 4096]))
def test_batches_hold_texts_of_like_length(lengths, most):
    found = list(batches(dict(enumerate(lengths)), most))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    for batch in found:
        real, padded = sum(lengths[i] for i in batch), len(batch) * max(lengths[i] for i in batch)
        assert padded <= most or len(batch) == 1
        last = max(lengths[i] for i in batch)
        assert real >= 0.9 * padded or real - last < most / 8


def test_a_scan_reads_the_next_layer_ahead(monkeypatch):
    scope, asked = qs.load_scope("tiny"), []
    monkeypatch.setattr(type(scope), "read_ahead", lambda self, layer: asked.append(layer))
    parts = [part.layer for part in qs.activations(scope, ["One text."], [0, 3, 5])]
    assert parts == [0, 3, 5] and asked == [3, 5]


# ---- tokens that the tokenizer puts before a text


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A random model whose tokenizer adds a BOS, which is no sink by its norm."""
    folder = tmp_path_factory.mktemp("begun")
    model, suite = add_bos(write_model(folder / "model")), write_suite(folder / "suite")
    return qs.load_scope(model=model, sae=suite, device="cpu", check=False)


def test_a_bos_is_never_a_token_of_the_text(begun):
    texts = ["abc", "a", begun.chat("x")]
    for part in qs.activations(begun, texts, [0, 2]):
        assert part.keep.tolist() == (part.position > 0).tolist()
        assert (part.ids[part.position == 0] == begun.prefix[0]).all()
        assert part.text.bincount().tolist() == [len(ids) for ids in begun.ids(texts)]


def test_readings_leave_the_bos_out(begun):
    texts = ["abc", "a", "some more"]
    found = qs.read_texts(begun, texts, [1], ["peak", "mean", "last", "rate", "residual"])[1]
    sums, norms = 0, []
    for row, text in enumerate(texts):
        dense, x, _ = by_hand(begun, text, 1)
        dense, x = dense[1:], x[1:]
        for pool, wanted in {
            "peak": dense.amax(0),
            "mean": dense.mean(0),
            "last": dense[-1],
            "rate": (dense > 0).float().mean(0),
            "residual": x.mean(0),
        }.items():
            assert getattr(found, pool)[row] == pytest.approx(wanted.numpy(), abs=1e-4), pool
        sums, norms = sums + x.sum(0), norms + x.norm(dim=-1).tolist()
    mean = sums / len(norms)
    other = qs.read_texts(begun, ["zzz"], [1], ["residual"])[1].residual[0]
    direction = qs.steering.diff_of_means(begun, texts, ["zzz"], [1])[1]
    assert direction.numpy() == pytest.approx(mean.numpy() - other, abs=1e-4)
    median = torch.tensor(norms).median().item()
    assert qs.scales(begun, texts, [1])[1].median == pytest.approx(median, rel=1e-4)


def test_the_last_tokens_of_a_text_are_its_own(begun):
    ((_, x, numbers),) = ends(begun, ["abc", "de"], 2, [1])
    for row, number in zip(x, numbers, strict=True):
        assert torch.allclose(row, by_hand(begun, ["abc", "de"][number], 1)[1][-2:], atol=1e-4)
    with pytest.raises(ValueError, match="a text has 2 tokens, so it has no last 3"):
        list(ends(begun, ["abc", "de"], 3, [1]))


def test_a_bos_does_not_enter_the_median_that_says_what_a_sink_is():
    x = torch.tensor([1000.0, 1.0, 1000.0, 1.0, 1000.0, 11.0])[:, None]
    position = torch.tensor([0, 1, 0, 1, 0, 1])
    for prefix, wanted in (((7,), [0, 1, 0, 1, 0, 0]), ((), [0, 1, 0, 1, 0, 1])):
        scope = SimpleNamespace(prefix=prefix)
        assert forward.kept(scope, x, position).int().tolist() == wanted


# ---- sinks


def test_sink_mask_equals_the_loop(rng):
    x = torch.randn(12, 8, generator=rng)
    x[3] *= 100
    x[7] *= 11
    assert sink_mask(x).tolist() == naive.sink_mask(x.tolist(), 10)
    assert sink_mask(x, factor=2).tolist() == naive.sink_mask(x.tolist(), 2)
    assert sink_mask(x)[3]


def test_sink_mask_leaves_padding_out_of_the_median(rng):
    x = torch.randn(2, 6, 8, generator=rng)
    x[0, 3:], x[1, 1:] = 0, 0  # padding with tiny norms would drag the median down
    x[0, 0] *= 100
    real = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    flat = naive.sink_mask(x.view(12, 8).tolist(), 10, real.view(12).bool().tolist())
    assert sink_mask(x, mask=real).view(12).tolist() == flat
    assert sink_mask(x, mask=real).sum() == 1


def test_sink_mask_names_what_is_wrong():
    with pytest.raises(ValueError, match="sink_mask got no real token"):
        sink_mask(torch.ones(2, 3), mask=torch.zeros(2))
    with pytest.raises(ValueError, match="sink_mask got NaN or inf residuals"):
        sink_mask(torch.tensor([[1.0], [math.nan]]))
    with pytest.raises(ValueError, match=r"mask is \(3,\) but the tokens are \(2,\)"):
        sink_mask(torch.ones(2, 3), mask=torch.ones(3))


def test_counts_and_chosen_peaks_are_those_of_the_dense_readings(scope, texts):
    rng = np.random.default_rng(0)
    weights = np.stack([rng.random(len(texts)) < 0.5, rng.normal(size=len(texts))])
    dense = qs.read_texts(scope, texts, [1, 3], ["peak"])
    counted = forward.count_firing(scope, texts, weights, [3, 1])
    features = {3: [7, 1000, 0, 512], 1: rng.permutation(scope.d_sae)[:40]}
    peaks = forward.read_peaks(scope, texts, features)
    for layer in (1, 3):
        fires = dense[layer].peak > 0
        assert counted[layer][0].tolist() == fires[weights[0] > 0].sum(0).tolist()
        assert np.allclose(counted[layer][1], weights[1] @ fires, atol=1e-9)
        assert (peaks[layer] == dense[layer].peak[:, features[layer]]).all()
    assert forward.count_firing(scope, texts, weights[1], [1])[1].shape == (1, scope.d_sae)


def test_counts_and_chosen_peaks_of_nothing_and_what_is_refused(scope, texts):
    assert forward.read_peaks(scope, texts, {}) == {}
    assert forward.read_peaks(scope, texts[:2], {1: []})[1].shape == (2, 0)
    assert forward.read_peaks(scope, [], {1: [3, 4]})[1].shape == (0, 2)
    assert forward.count_firing(scope, [], np.zeros((2, 0)), [1])[1].tolist() == [[0] * 1024] * 2
    with pytest.raises(ValueError, match=r"weights \(1, 3\) for 2 texts"):
        forward.count_firing(scope, texts[:2], [1, 1, 1], [1])
    with pytest.raises(ValueError, match="layer 1: a feature is asked for twice"):
        forward.read_peaks(scope, texts, {1: [3, 3]})
    for odd in (-1, scope.d_sae):
        with pytest.raises(ValueError, match="layer 1: features are counted from 0 to 1023"):
            forward.read_peaks(scope, texts, {1: [odd]})


def test_a_text_is_read_once_and_gives_what_read_texts_gives(scope, monkeypatch):
    seen, real = [], forward.read_texts

    def noted(scope, texts, layers, pools):
        seen.append(list(texts))
        return real(scope, texts, layers, pools)

    monkeypatch.setattr(forward, "read_texts", noted)
    read = forward.reads_once(scope, [1, 3])
    texts = ["you are a fool!", "the cow sleeps.", "you are a fool!"]
    for some, pools in ((texts, ["peak"]), (texts[1:], ["peak"]), (texts, ["peak", "rate"])):
        found, whole = read(some, pools), real(scope, some, [1, 3], pools)
        for layer in (1, 3):
            for pool in pools:
                mine, theirs = getattr(found[layer], pool), getattr(whole[layer], pool)
                assert mine.dtype == theirs.dtype and np.allclose(mine, theirs, atol=1e-3)
    assert seen == [texts[:2], texts[:2]]  # the second time for the rate
    assert read([])[1].peak.shape == (0, scope.d_sae)


# ---- the last tokens of chats


@pytest.fixture(scope="module")
def refuser():
    return qs.load_scope("tiny-instruct")


def test_template_tokens_are_those_after_the_request(refuser):
    n = template_tokens(refuser)
    ids = refuser.ids([refuser.chat("tell me how to paint the door.")])[0]
    tail = refuser.tokenizer.decode(ids[-n:])
    assert tail == "<|im_end|>\n<|im_start|>assistant\n"


def test_position_means_are_means_at_the_last_tokens(refuser):
    rows = drawn_requests({"validation": 4}, ["en", "zh"])["validation", True]
    asked = [refuser.chat(r.text) for r in rows]
    found = position_means(refuser, asked, 3, [2])[2]
    rows = []
    for text in asked:
        with qs.capture(refuser.model, [2]) as captured:
            refuser.model(**refuser.tokens(text))
        rows.append(captured[2][0, -3:])
    assert torch.allclose(found, torch.stack(rows).double().mean(0), atol=1e-3)
    with pytest.raises(ValueError, match="no last 500"):
        position_means(refuser, asked, 500, [2])
