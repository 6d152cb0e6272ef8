"""Shards hold what a forward pass of each text gives, survive a kill, and mix their tokens."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from qs_helpers.hooks import decoder_layers
from qs_helpers.training import Shards, harvest, shards

from .conftest import CONTEXT, some_texts, write_shards

HERE = Path(__file__).parent
LAYERS = [0, 2]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 300)
    monkeypatch.setattr(shards, "LEAST", 60)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def alone(lm, texts, layer):
    """Residuals of each piece of each text, run by itself; tokens in order, and their ids."""
    found, ids, kept = [], [], []
    prefix, own = list(lm.prefix), CONTEXT - len(lm.prefix)
    module = decoder_layers(lm.model)[layer]
    hook = module.register_forward_hook(lambda module, args, output: kept.append(output))
    for text in texts:
        tokens = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        while tokens:
            piece, tokens = tokens[:own], tokens[own:]
            with torch.no_grad():
                lm.model(torch.tensor([prefix + piece]))
            found.append(kept.pop()[0][len(prefix) :])
            ids += piece
    hook.remove()
    return torch.cat(found), torch.tensor(ids)


@pytest.mark.parametrize("begun", [False, True])
def test_residuals_are_those_of_each_text_alone_without_sinks(lm, lm_with_bos, tmp_path, begun):
    """`begun`: the tokenizer puts a token before each text, which is read and left out."""
    texts, lm = some_texts(40), lm_with_bos if begun else lm
    assert len(lm.prefix) == begun
    told = []
    found = harvest(lm, texts, [2, 0], tmp_path, context=CONTEXT, told=told.append)
    assert found.layers == (0, 2) and found.d_model == lm.d_model and len(told) > 3
    for layer in LAYERS:
        x, ids = alone(lm, texts, layer)
        sinks = ids == lm.tokenizer("Z", add_special_tokens=False)["input_ids"][0]
        own = CONTEXT - len(lm.prefix)
        begins = sum(-(-len(text) // own) for text in texts) if begun else 0
        assert sinks.sum() > 10
        assert (found.tokens, found.sinks) == (int((~sinks).sum()), int(sinks.sum()) + begins)
        kept = found.first(layer, 10**9)
        torch.testing.assert_close(kept, x[~sinks], rtol=1e-5, atol=1e-6)
        assert torch.equal(found.first(layer, 350), kept[:350]), "over the end of a shard"
        torch.testing.assert_close(torch.cat(list(found.parts(layer, 350))), kept[:350])
    assert told[-1] == found.tokens and told == sorted(told)
    assert repr(found) == f"Shards({tmp_path.name}: {found.tokens:,} tokens, layers [0, 2])"


def test_a_token_that_is_a_sink_at_one_layer_is_left_out_at_all(lm, tmp_path):
    texts = [text.replace("Z", "y") for text in some_texts(20)]
    letters = torch.tensor([ord(letter) for text in texts for letter in text])
    seen = {}

    def note(module, args, kwargs):
        seen["ids"] = kwargs["input_ids"]

    def large(module, args, output):
        b = seen["ids"] == lm.own_ids(["b"])[0][0]
        return output * torch.where(b, 1000, 1)[..., None]

    def even(module, args, output):
        return output / output.norm(dim=-1, keepdim=True)

    hooks = [
        lm.model.register_forward_pre_hook(note, with_kwargs=True),
        decoder_layers(lm.model)[0].register_forward_hook(large),
        decoder_layers(lm.model)[1].register_forward_hook(even),
    ]
    try:
        found = harvest(lm, texts, [0, 1], tmp_path / "all", context=CONTEXT)
        alone = harvest(lm, texts, [1], tmp_path / "one", context=CONTEXT)
    finally:
        for hook in hooks:
            hook.remove()
    assert found.sinks == int((letters == ord("b")).sum()) > 5
    assert found.first(1, 10**6).shape == found.first(0, 10**6).shape
    assert alone.sinks == 0


def test_long_texts_are_cut_into_pieces_that_do_not_see_each_other(lm, tmp_path):
    long = some_texts(1, seed=3)[0] * 3
    assert len(long) > 2 * CONTEXT
    whole = harvest(lm, [long], [1], tmp_path / "whole", context=CONTEXT)
    cuts = [long[i : i + CONTEXT] for i in range(0, len(long), CONTEXT)]
    parts = harvest(lm, cuts, [1], tmp_path / "parts", context=CONTEXT)
    torch.testing.assert_close(whole.first(1, 10**6), parts.first(1, 10**6))


def test_about_as_many_tokens_as_asked_and_more_later(lm, tmp_path):
    texts = some_texts(100)
    found = harvest(lm, texts, [1], tmp_path, 700, context=CONTEXT)
    assert 700 <= found.tokens < 700 + 120
    read = contents(tmp_path)
    more = harvest(lm, texts, [1], tmp_path, 1500, context=CONTEXT)
    assert 1500 <= more.tokens < 1500 + 120
    assert read.items() <= contents(tmp_path).items(), "the first shards stay as they are"
    assert torch.equal(more.first(1, found.tokens), found.first(1, found.tokens))


def test_a_harvest_that_was_cut_off_goes_on_and_gives_the_same_files(lm, tmp_path):
    texts, whole, cut = some_texts(60), tmp_path / "whole", tmp_path / "cut"
    harvest(lm, texts, LAYERS, whole, 1400, context=CONTEXT)
    asked = []

    def interrupted(upto):
        if upto > 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(lm, texts, LAYERS, cut, 1400, context=CONTEXT, told=interrupted)
    kept = contents(cut)
    assert 1 < len(kept) < len(contents(whole))

    def reading():
        for number, text in enumerate(texts):
            asked.append(number)
            yield text

    harvest(lm, reading(), LAYERS, cut, 1400, context=CONTEXT)
    assert contents(cut) == contents(whole)
    assert kept.items() <= contents(cut).items()
    asked.clear()
    forward = lm.model.forward
    try:
        lm.model.forward = None  # a finished harvest needs no forward pass
        again = harvest(lm, reading(), LAYERS, cut, 1400, context=CONTEXT)
    finally:
        lm.model.forward = forward
    assert again.tokens >= 1400 and len(asked) < len(texts)


KILLED = """
import os, signal, sys
from pathlib import Path
from conftest import CONTEXT, small_lm, some_texts
from qs_helpers.training import harvest, shards
shards.SHARD_TOKENS, shards.LEAST, save, calls = 300, 60, shards.save_file, []

def killed(tensors, path, metadata):
    save(tensors, path, metadata)
    calls.append(path)
    if len(calls) == 3:  # half of the third file is written
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

shards.save_file = killed
harvest(small_lm(Path(sys.argv[1])), some_texts(60), [0, 2], sys.argv[2], 1400, context=CONTEXT)
"""


@pytest.mark.long
def test_a_kill_in_the_middle_of_a_write_costs_one_shard(lm, tmp_path):
    from suites import write_model

    folder, whole, cut = tmp_path / "small", tmp_path / "whole", tmp_path / "cut"
    write_model(folder)
    harvest(lm, some_texts(60), LAYERS, whole, 1400, context=CONTEXT)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "QS_OFFLINE": "1"}
    command = [sys.executable, "-c", KILLED, folder, cut]
    ran = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ran.returncode == -9, ran.stderr
    names = sorted(path.name for path in cut.iterdir())
    assert names[1:] == ["00000.safetensors", "00001.safetensors"] and names[0].startswith(".00002")
    assert len(Shards(cut)._files) == 2, "the half of a file is no shard"
    harvest(lm, some_texts(60), LAYERS, cut, 1400, context=CONTEXT)
    assert contents(whole).items() <= contents(cut).items()


MEMORY = """
import re, sys
from pathlib import Path
from conftest import small_lm
from qs_helpers.training import Recipe, harvest, shards, train_sae
shards.SHARD_TOKENS = shards.MIXED = 8192
lm = small_lm(Path(sys.argv[1]), batch_tokens=2048)
tokens = int(sys.argv[3])
texts = ("abcdefgh" * 8 for _ in range(10**9))
found = harvest(lm, texts, [0, 1, 2], sys.argv[2], tokens)
train_sae(found, 1, Recipe(256, 8, tokens, 1024))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_tokens(tmp_path):
    from suites import write_model

    folder = write_model(tmp_path / "model", d_model=128)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "QS_OFFLINE": "1"}
    env |= {"LRU_CACHE_CAPACITY": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}  # libraries keep less
    peaks = {}
    for tokens in (40_000, 160_000):
        out = tmp_path / str(tokens)
        command = [sys.executable, "-c", MEMORY, folder, out, str(tokens)]
        ran = subprocess.run(command, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        peaks[tokens] = int(re.findall(r"\d+", ran.stdout)[-1]) / 1024
        size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
        shutil.rmtree(out)
    assert size > 200, "that much is on disk"
    assert peaks[160_000] - peaks[40_000] < 15, peaks


@pytest.mark.parametrize(
    "other, message",
    [
        ({"lm": "other"}, r"made from something else \(model\); nothing was changed"),
        ({"layers": [0]}, r"made from something else \(layers\); nothing was changed"),
        ({"context": 12}, r"made from something else \(context\); nothing was changed"),
        ({"lm": "other", "context": 12}, r"made from something else \(model, context\)"),
        ({"texts": some_texts(40, seed=9)}, r"00000\.safetensors was made from other texts; name"),
        ({"texts": some_texts(40)[:5]}, r"00000\.safetensors was made from other texts; name"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_stays(lm, tmp_path, other, message):
    asked = {"lm": lm, "texts": some_texts(40), "layers": LAYERS, "context": CONTEXT}
    folder = tmp_path / "kept"

    def ask(lm, texts, layers, context):
        return harvest(lm, texts, layers, folder, 600, context=context)

    ask(**asked)
    before = contents(folder)
    if "lm" in other:
        fingerprint = lambda layers: {"files": ["another"]}  # noqa: E731
        other = other | {"lm": SimpleNamespace(**vars(lm) | {"fingerprint": fingerprint})}
    with pytest.raises(ValueError, match=f"kept.*{message}"):
        ask(**asked | other)
    assert contents(folder) == before
    assert ask(**asked).tokens >= 600


def test_a_request_that_failed_does_not_bind_the_folder(lm, lm_with_bos, tmp_path):
    with pytest.raises(ValueError, match=r"layers are \[1, 7\]; choose some of 0 to 2"):
        harvest(lm, some_texts(5), [7, 1], tmp_path / "x")
    with pytest.raises(ValueError, match=r"layers are \[\]; choose some of 0 to 2"):
        harvest(lm, some_texts(5), [], tmp_path / "x")
    with pytest.raises(ValueError, match="context is 0; make it at least 1 tokens"):
        harvest(lm, some_texts(5), [0], tmp_path / "x", context=0)
    with pytest.raises(ValueError, match="context is 1; make it at least 2 tokens"):
        harvest(lm_with_bos, some_texts(5), [0], tmp_path / "x", context=1)
    with pytest.raises(ValueError, match="text 0 is ''"):
        harvest(lm, [""], [0], tmp_path / "x")
    assert harvest(lm, some_texts(5), [1], tmp_path / "x", context=CONTEXT).layers == (1,)


def test_nan_is_named_with_its_layer_and_texts_and_whole_shards_stay(lm, tmp_path):
    texts = some_texts(40)
    first = harvest(lm, texts, LAYERS, tmp_path, 300, context=CONTEXT)
    done = first._files[0].read_bytes()
    with safe_open(first._files[0], framework="pt") as file:
        read = json.loads(file.metadata()["shard"])["pieces"]
    numbers = [n for n, text in enumerate(texts) for _ in shards.pieces(lm, text, CONTEXT)]
    n = numbers[read]  # the text of the first piece that is not there yet

    def broken(module, args, output):
        return output * float("nan")

    hook = decoder_layers(lm.model)[2].register_forward_hook(broken)
    try:
        with pytest.raises(ValueError, match=rf"layer 2, texts {n} to \d+: NaN or inf residuals"):
            harvest(lm, texts, LAYERS, tmp_path, context=CONTEXT)
    finally:
        hook.remove()
    assert contents(tmp_path) == {"00000.safetensors": done}
    harvest(lm, texts, LAYERS, tmp_path / "fresh", context=CONTEXT)
    harvest(lm, texts, LAYERS, tmp_path, context=CONTEXT)
    assert contents(tmp_path / "fresh").keys() <= {p.name for p in tmp_path.iterdir()}


def test_one_text_of_any_length_is_read_in_shards(lm, tmp_path, monkeypatch):
    """Memory is flat in the length of a text too, and a harvest goes on in the middle of one."""
    monkeypatch.setattr(shards, "SHARD_TOKENS", 600)
    book = ["".join(random.Random(1).choices("abcdefgh", k=3000))]
    whole = harvest(lm, book, LAYERS, tmp_path / "whole", context=CONTEXT)
    assert len(whole._files) == 5 and max(whole._sizes) <= 600 + CONTEXT
    harvest(lm, book, LAYERS, tmp_path / "cut", 700, context=CONTEXT)
    harvest(lm, book, LAYERS, tmp_path / "cut", context=CONTEXT)
    for layer in LAYERS:
        both = [Shards(tmp_path / name).first(layer, 10**6) for name in ("whole", "cut")]
        assert len(both[0]) == len(both[1]) and torch.equal(both[0][:600], both[1][:600])


def test_no_piece_is_longer_than_the_model_can_read(lm, tmp_path):
    longest = []
    monkey = lm.tokens
    lm.tokens = lambda ids: longest.extend(map(len, ids)) or monkey(ids)
    try:
        harvest(lm, ["ab" * 3000], LAYERS, tmp_path, context=10**6)
    finally:
        del lm.tokens
    assert max(longest) == lm.max_tokens


def test_a_disk_too_small_is_refused_before_anything_is_written(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(OSError, match="the shards need 1.3 GB, and 1.0 GB are free; read fewer"):
        harvest(lm, some_texts(40), LAYERS, tmp_path, 10_000_000, context=CONTEXT)
    assert contents(tmp_path) == {}
    assert harvest(lm, some_texts(40), LAYERS, tmp_path, 100, context=CONTEXT).tokens >= 100


@pytest.mark.parametrize(
    "bad, message",
    [
        ("", "text 7 is ''; each text must be a non-empty string"),
        (None, "text 7 is None; each text must be a non-empty string"),
        ("a\ud800", "text 7 holds half a character at position 1"),
    ],
)
def test_a_text_that_is_none_is_named(lm, tmp_path, bad, message):
    texts = some_texts(20)
    texts[7] = bad
    with pytest.raises(ValueError, match=message):
        harvest(lm, texts, LAYERS, tmp_path, context=CONTEXT)


def test_no_texts_no_shards(lm, tmp_path):
    with pytest.raises(ValueError, match="x holds no shards; harvest residuals into it first"):
        harvest(lm, [], LAYERS, tmp_path / "x")
    with pytest.raises(ValueError, match="nowhere holds no shards"):
        Shards(tmp_path / "nowhere")


def test_files_that_are_half_written_or_no_shards(lm, tmp_path):
    whole = harvest(lm, some_texts(40), [1], tmp_path, 600, context=CONTEXT)
    (tmp_path / ".00009.safetensors.123").write_bytes(b"half")
    assert Shards(tmp_path).tokens == whole.tokens
    last = whole._files[-1]
    content = last.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no shard at all"):
        last.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"{last.name} is no shard; remove it"):
            Shards(tmp_path)
        with pytest.raises(ValueError, match=rf"{last.name} is no shard; remove it"):
            harvest(lm, some_texts(40), [1], tmp_path, 600, context=CONTEXT)
    last.unlink()
    assert harvest(lm, some_texts(40), [1], tmp_path, 600, context=CONTEXT).tokens == whole.tokens
    assert last.read_bytes() == content
    with pytest.raises(ValueError, match=r"layers \[1\]\) has no layer 0"):
        whole.read(0, 0)


# Sizes of shards, and of a batch: many shards; a rest; shards smaller than a batch; one shard.
CORPORA = [([500] * 9, 64), ([500, 500, 500, 20], 100), ([30] * 40, 256), ([700], 64)]


def numbered(folder, sizes):
    """Shards whose tokens are the numbers from 0."""
    return write_shards(folder, torch.arange(float(sum(sizes)))[:, None], sizes)


def take(found, n, size, seed=0, start=0):
    batches = found.batches(0, size, seed, start)
    return torch.stack([next(batches)[:, 0] for _ in range(n)])


@pytest.mark.parametrize("sizes, size", CORPORA)
def test_an_epoch_sees_no_token_twice_and_nearly_all(tmp_path, monkeypatch, sizes, size):
    monkeypatch.setattr(shards, "MIXED", 1000)
    found, total = numbered(tmp_path, sizes), sum(sizes)
    # How many batches an epoch has depends on which shards come together, so ask the generator.
    seen, batches = [], found.batches(0, size)
    while True:
        batch = next(batches)[:, 0].tolist()
        if set(batch) & set(seen):
            break
        seen += batch
    assert max(Counter(seen).values()) == 1
    assert len(seen) > total - size * (1 + total // 1000)
    mixed = torch.tensor(seen).diff()
    assert (mixed == 1).float().mean() < 0.1, "neighbours are torn apart"


def test_a_batch_larger_than_what_is_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MIXED", 1000)
    found = numbered(tmp_path, [90] * 40)
    one, two = take(found, 2, 1500).tolist()
    assert len({*one, *two}) == 3000, "17 shards, and the other 23"


def test_over_some_epochs_every_token_is_seen_about_as_often(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MIXED", 1000)
    found = numbered(tmp_path, [250] * 10)
    # An epoch has 15 + 15 + 7 batches of its 39 or so.
    seen = take(found, 20 * 37, 64).flatten().long().bincount(minlength=2500)
    assert seen.max() == 20 and seen.min() >= 14


@pytest.mark.parametrize("sizes, size", CORPORA)
def test_batches_depend_on_the_seed_and_can_start_anywhere(tmp_path, monkeypatch, sizes, size):
    monkeypatch.setattr(shards, "MIXED", 1000)
    found = numbered(tmp_path, sizes)
    all_of_them = take(found, 150, size)
    assert torch.equal(all_of_them, take(found, 150, size))
    assert not torch.equal(all_of_them[0], take(found, 1, size, seed=1)[0])
    for start in (1, 2, 13, 77, 149):
        rest = take(found, 150 - start, size, start=start)
        assert torch.equal(rest, all_of_them[start:]), start


def test_a_batch_larger_than_the_corpus_is_refused(tmp_path):
    found = numbered(tmp_path, [30, 20])
    with pytest.raises(ValueError, match="50 tokens.* are less than a batch of 51; read more"):
        next(found.batches(0, 51))
    assert sorted(next(found.batches(0, 50))[:, 0].tolist()) == list(range(50))
    with pytest.raises(ValueError, match="has no layer 3"):
        next(found.batches(3, 10))


def test_batches_are_float32_whatever_the_shards_hold(tmp_path):
    found = write_shards(tmp_path, torch.randn(60, 4).bfloat16())
    batch = next(found.batches(0, 20))
    assert batch.dtype == torch.float32 and batch.shape == (20, 4)
    assert found.read(0, 0).dtype == torch.bfloat16
