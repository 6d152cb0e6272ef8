"""A scan equals counting by hand, does its work once, and does not grow with the corpus."""

import gc
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from naive import scan as naive_scan
from naive import splitmix64

import qs_helpers as qs
from qs_helpers import forward
from qs_helpers.forward import batches
from qs_helpers.loading import memory
from qs_helpers.loading.memory import CACHE_BYTES
from qs_helpers.tiny import corpus
from qs_helpers.views import scan as scan_plan
from qs_helpers.views import shards
from qs_helpers.views.card import id_activations
from qs_helpers.views.tables import TOP, Kept, Table, token_keys


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def texts():
    return [d.text for d in corpus.documents(60, "discovery")]


@pytest.fixture(scope="module")
def found(scope, texts, tmp_path_factory):
    return qs.views.scan_corpus(scope, texts, folder=tmp_path_factory.mktemp("cache"))


def tokens_of(scope, texts, layer):
    """[(text, position, [(value, feature)])], one text at a time: no batch, no padding."""
    out = []
    for number, text in enumerate(texts):
        with qs.capture(scope.model, [layer]) as residuals:
            scope.model(**scope.tokens(text))
        x = residuals[layer][0]
        acts = scope.sae(layer).encode(x)
        for at in range(len(x)):
            pairs = zip(acts.values[at].tolist(), acts.indices[at].tolist(), strict=True)
            out.append((number, at, [pair for pair in pairs if pair[0] > 0]))
    return out


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_it_equals_counting_by_hand(scope, texts, found, layer):
    expected = naive_scan(tokens_of(scope, texts, layer), scope.d_sae, TOP)
    stats = found.stats(layer)
    # Padding changes sums in the last bits, so a feature at the edge of the TopK may differ.
    assert np.abs(stats["fired"] - expected["fired"]).sum() <= 2
    same = stats["fired"] == np.asarray(
        expected["fired"]
    )  # at the edge a whole activation is there or not
    assert stats["total"][same] == pytest.approx(
        np.asarray(expected["total"])[same], rel=1e-3, abs=1
    )
    assert stats["histogram"].sum(1).tolist() == stats["fired"].tolist()
    for feature in stats["fired"].argsort()[-20:]:
        values = [value for value, *_ in expected["top"][feature]]
        assert found.top(layer, feature)["value"] == pytest.approx(values, rel=1e-4)


def test_contexts_point_at_the_token_they_name(scope, texts, found):
    feature = int(found.stats(2)["fired"].argmax())
    for row in found.top(2, feature)[:5]:
        assert found.ids(int(row["text"])).tolist() == scope.ids(texts[row["text"]])[0]
        value = id_activations(scope, scope.ids(texts[row["text"]]), 2, feature)[0]
        assert value[row["position"]] == pytest.approx(row["value"], rel=1e-4)


def test_bands_fall_and_come_from_the_whole_range(found):
    feature = int(found.stats(1)["fired"].argmax())
    bands = found.bands(1, feature)
    assert len(bands) == 10 and all(1 <= len(band) <= 5 for band in bands)
    tops = [band["value"].max() for band in bands]
    assert tops == sorted(tops, reverse=True)


def test_all_layers_take_one_pass_that_stops_after_the_last(scope, texts, monkeypatch, tmp_path):
    passes, later = [], []
    watch = [
        scope.model.model.layers[0].register_forward_hook(lambda *a: passes.append(1)),
        scope.model.model.layers[4].register_forward_hook(lambda *a: later.append(1)),
    ]
    qs.views.scan_corpus(scope, texts, [0, 3], folder=tmp_path)
    for hook in watch:
        hook.remove()
    lengths = {i: len(ids) for i, ids in enumerate(scope.ids(texts))}
    padded = len(list(batches(lengths, scope.batch_tokens)))
    assert len(passes) == padded and not later


def test_a_second_call_does_no_work(scope, texts, found, monkeypatch):
    monkeypatch.setattr(shards, "activations", None)
    again = qs.views.scan_corpus(scope, texts, folder=found.folder.parent)
    assert again.folder == found.folder and again.n_tokens == found.n_tokens


def test_scans_and_labels_are_kept_where_runs_are(scope, monkeypatch, tmp_path):
    monkeypatch.setenv("QS_ROOT", str(tmp_path / "read-only"))
    monkeypatch.setenv("QS_RUNS", str(tmp_path / "scratch"))
    qs.views.scan_corpus(scope, ["the dog sees", "a cat"], [3])
    assert len(list((tmp_path / "scratch" / "cache").glob("scan-*/scan.json"))) == 1
    qs.views.label(scope, 3, 7, "dogs")
    assert "dogs" in (tmp_path / "scratch" / "labels.jsonl").read_text("utf-8")
    assert not (tmp_path / "read-only").exists()


def test_other_texts_layers_or_weights_make_another_scan(scope, texts, tmp_path):
    def name(scope, texts, layers):
        cut = [shard for shard, _ in shards.cut(texts)]
        return shards.plan_work(tmp_path, scope.fingerprint(layers), layers, cut).place

    names = {name(scope, texts, [0]), name(scope, texts[1:], [0]), name(scope, texts, [1])}
    assert len(names | {name(qs.load_scope("tiny-sft"), texts, [0])}) == 4


def test_an_interrupted_scan_leaves_nothing_that_is_read_as_whole(
    scope, texts, tmp_path, monkeypatch
):
    def fail(self, part):
        raise KeyboardInterrupt

    monkeypatch.setattr(Table, "add", fail)
    with pytest.raises(KeyboardInterrupt):
        qs.views.scan_corpus(scope, texts, [0], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert qs.views.scan_corpus(scope, texts, [0], folder=tmp_path).n_texts == len(texts)


def test_sinks_are_counted_and_enter_no_statistic(scope, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "sink_mask", lambda x, mask: torch.arange(len(x)) % 3 == 0)
    found = qs.views.scan_corpus(scope, texts, [1], folder=tmp_path)
    assert found.n_sinks[1] >= found.n_tokens // 3
    fired = found.stats(1)["fired"].sum()
    assert fired <= scope.k * (found.n_tokens - found.n_sinks[1])


def test_how_the_corpus_is_cut_changes_nothing(scope, texts, found, tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "CHUNK_TOKENS", 60)
    other = qs.views.scan_corpus(scope, texts, [2], folder=tmp_path)
    assert other.n_tokens == found.n_tokens
    assert np.abs(other.stats(2)["fired"] - found.stats(2)["fired"]).sum() <= 2
    ids = [other.ids(n).tolist() for n in range(len(texts))]
    assert ids == [found.ids(n).tolist() for n in range(len(texts))]


# ---- the plan


@pytest.mark.parametrize("name", sorted(qs.GROUPS))
def test_every_group_has_a_plan(name):
    group = qs.get_group(name)
    plan, one = qs.views.plan_scan(group), qs.views.plan_scan(group, [0])
    assert 1024 <= plan.tokens == one.tokens <= forward.CHUNK_TOKENS
    assert plan.residuals <= 2 * forward.RESIDUAL_BYTES
    assert one.tables < plan.tables and one.saes <= plan.saes <= CACHE_BYTES
    assert one.scan < plan.scan and one.device <= plan.device


def test_residuals_take_no_more_than_planned(scope, monkeypatch):
    """Tensors alive at any time of a scan that are as wide as the residuals."""
    monkeypatch.setattr(forward, "CHUNK_TOKENS", 512)
    monkeypatch.setattr(memory, "PART_TOKENS", 512)
    plan, most, whole = qs.views.plan_scan(scope, [0, 3, 5]), 0, forward.sink_mask

    def alive():
        found = (t for t in gc.get_objects() if type(t) is torch.Tensor and t.numel())
        return {t.data_ptr(): t.nbytes for t in found if t.shape[-1:] == (scope.d_model,)}

    def counted(x, mask):
        nonlocal most
        most = max(most, sum(size for place, size in alive().items() if place not in before))
        return whole(x, mask=mask)

    for layer in (0, 3, 5):
        scope.sae(layer)
    before = alive()
    monkeypatch.setattr(forward, "sink_mask", counted)
    for _ in forward.activations(scope, ["12 34 5678 9 " * 7] * 40, [0, 3, 5]):
        pass
    layer = plan.tokens * scope.d_model * 4
    assert 2 * layer < most <= plan.residuals


def test_tables_take_no_more_than_planned():
    """The worst case: every feature has more contexts than are kept, and all keys rise."""
    d_sae, n = 8192, 150
    table = Table(d_sae)
    tracemalloc.start()
    for text in range(n):
        values = torch.full((1, d_sae), 1.0 + text)
        acts = qs.SparseActs(values, torch.arange(d_sae)[None])
        keep, number = torch.ones(1, dtype=torch.bool), torch.tensor([text])
        table.add(forward.Part(0, acts, keep, number, number * 0, number))
    table.arrays()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    planned = d_sae * (memory.TABLE_BYTES + memory.MERGE_BYTES)
    assert 0.5 * planned < peak < planned


def test_a_scan_that_does_not_fit_is_refused_before_it_runs(scope, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(scan_plan, "free_bytes", lambda device: 10**6)
    with pytest.raises(MemoryError, match=r"scan of 6 layers, 8192 tokens at a time.*1 MB are"):
        qs.views.scan_corpus(scope, texts[:1], folder=tmp_path)
    monkeypatch.setattr(scan_plan, "free_bytes", lambda device: None)
    assert qs.views.scan_corpus(scope, texts[:1], [0], folder=tmp_path).n_texts == 1


def test_kept_contexts_do_not_depend_on_the_order_of_parts():
    rng = np.random.default_rng(0)
    n = 5000
    feature, text = rng.integers(0, 7, n), np.arange(n)
    key = rng.integers(0, 50, n).astype(float)  # many ties
    columns = feature, key, key.astype(np.float32), text, np.zeros(n, int)
    once, parts = Kept(7, 6), Kept(7, 6)
    once.add(*columns)
    for cut in np.array_split(rng.permutation(n), 40):
        parts.add(*(column[cut] for column in columns))
        parts._merge()
    assert (once.rows() == parts.rows()).all()
    assert np.bincount(once.rows()["feature"]).tolist() == [6] * 7


def test_token_keys_are_uniform_and_fixed():
    tokens = np.repeat(np.arange(200), 50), np.tile(np.arange(50), 200)
    keys, others = token_keys(*tokens, 2**64 - 1), token_keys(*tokens, 7)
    assert len(set(keys) | set(others)) == 2 * len(keys)
    assert abs(np.corrcoef(keys, others)[0, 1]) < 0.05
    assert np.histogram(keys, 10, (0, 1))[0] / len(keys) == pytest.approx([0.1] * 10, abs=0.02)
    for text, position, seed in ((3, 4, 5), (2**31 - 1, 4095, 2**64 - 1), (0, 0, 0)):
        (key,) = token_keys(np.array([text]), np.array([position]), seed)
        assert key == (splitmix64(text << 32 ^ position ^ seed) >> 11) / 2**53


MEMORY = """
import resource, sys
import qs_helpers as qs
from qs_helpers.tiny import corpus
class Repeated:  # a corpus that is not held in memory
    def __init__(self, n): self.n, self.texts = n, [d.text for d in corpus.documents(300)]
    def __iter__(self): return (self.texts[i % 300] for i in range(self.n))
scope = qs.load_scope("tiny")
qs.views.scan_corpus(scope, Repeated(int(sys.argv[1])), [2], folder=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    def peak(n):
        command = [sys.executable, "-c", MEMORY, str(n), str(tmp_path / str(n))]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    once, twice = peak(1500), peak(3000)
    assert twice < once * 1.06


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", ""], "text 1 is ''"),
        (["fine", "half \ud83d"], "text 1 holds half a character at position 5"),
        (["the cook " * 600], "text 0 has .* tokens; split it"),
    ],
)
def test_texts_are_refused_by_number(scope, texts, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        qs.views.scan_corpus(scope, texts, [0], folder=tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027, 0o000])
def test_a_scan_has_the_permissions_of_any_other_folder(scope, tmp_path, umask):
    if os.name == "nt":
        pytest.skip("Windows has no umask")
    before = os.umask(umask)
    try:
        found = qs.views.scan_corpus(scope, ["the dog sees"], [3], folder=tmp_path / "cache")
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (found.folder, *found.folder.iterdir())}
    assert modes.pop(found.folder.name) == 0o777 & ~umask
    assert set(modes.values()) == {0o666 & ~umask}


class Changing:
    """Texts that are others when they are gone through again."""

    def __init__(self):
        self.times = 0

    def __iter__(self):
        self.times += 1
        return iter(["the dog", "a cat"][: 3 - self.times])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty"),
        (iter(["a cat"]), "gone through once only"),
        ((t for t in ["a cat"]), "gone through once only"),
        (map(str.strip, ["a cat"]), "gone through once only"),
        (Changing(), "texts were others"),
        ({"en": "a cat"}, "texts is of type dict; give a list"),
        ({"a cat"}, "texts is of type set"),
        (pd.DataFrame({"text": ["a cat"]}), "texts is of type DataFrame"),
        (["a cat", float("nan")], "text 1 is nan"),
    ],
)
def test_nothing_is_stored_under_a_name_that_it_does_not_belong_to(scope, tmp_path, texts, message):
    with pytest.raises(ValueError, match=message):
        qs.views.scan_corpus(scope, texts, [0], folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("texts", ["a cat", pd.Series(["a cat"], index=[7]), np.array(["a cat"])])
def test_a_text_is_one_text(scope, tmp_path, texts):
    found = qs.views.scan_corpus(scope, texts, [0], folder=tmp_path)
    again = qs.views.scan_corpus(scope, ["a cat"], [0], folder=tmp_path)
    assert found.n_texts == 1 and again.folder == found.folder


def test_layers_and_features_that_do_not_exist_are_named(scope, texts, found, tmp_path):
    with pytest.raises(ValueError, match="layer 9 was not scanned; choose from"):
        found.stats(9)
    with pytest.raises(ValueError, match=f"feature {scope.d_sae} is out of range"):
        found.top(0, scope.d_sae)
    with pytest.raises(ValueError, match="layers is empty"):
        qs.views.scan_corpus(scope, texts, [], folder=tmp_path)
    with pytest.raises(TypeError, match="'float' object cannot be"):
        qs.views.scan_corpus(scope, texts, [1.7], folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no SAE file for layer 7; it has layers 0 to 5"):
        qs.views.scan_corpus(scope, texts, [7], folder=tmp_path)
