"""Loading a model with its SAE suite from folders, and every bad folder that is refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from suites import CHATML, add_bos, random_sae, write_model, write_suite

from qs_helpers.forward import activations, residuals
from qs_helpers.generation import generate
from qs_helpers.hooks import capture, hooks_left
from qs_helpers.loading import catalog, hub, memory
from qs_helpers.loading import scope as module
from qs_helpers.loading.scope import (
    SENTENCES,
    Scope,
    load_language_model,
    load_model_and_suite,
    load_scope,
)
from qs_helpers.scoring import text_nats

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def loaded(model, suite):
    return load_scope(model=model, sae=suite, device="cpu")


def refused(kind, *words, **given):
    """Loading what is given raises `kind`, in one line that holds all the words."""
    with pytest.raises(kind) as caught:
        load_scope(device="cpu", **given)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


# ---- what loads


def test_a_loaded_scope(loaded):
    assert (loaded.d_model, loaded.d_sae, loaded.k, loaded.layers) == (16, 64, 4, (0, 1, 2))
    assert loaded.device == torch.device("cpu") and loaded.dtype == torch.float32
    assert not loaded.is_tiny and not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert "layers 0 to 2" in repr(loaded)


def test_an_sae_of_the_scope_reconstructs_its_width(loaded):
    sae = loaded.sae(1)
    acts = sae.encode(torch.randn(2, 3, 16))
    assert acts.values.shape == acts.indices.shape == (2, 3, 4)
    assert torch.equal(sae.W_enc, random_sae(seed=1)["W_enc"])


def test_dtype_can_be_chosen(model, suite):
    half = load_scope(model=model, sae=suite, device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.sae(0).W_enc.dtype == torch.float32


def test_loading_says_nothing(model, suite):
    code = (
        "from qs_helpers.loading.scope import load_scope\n"
        f"load_scope(model={str(model)!r}, sae={str(suite)!r}, device='cpu').sae(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_leaves_the_verbosity_of_transformers_alone(model, suite):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging._tqdm_hook
    load_scope(model=model, sae=suite, device="cpu")
    assert (logging.get_verbosity(), logging._tqdm_hook) == before


@pytest.mark.parametrize("preset", list(catalog.TINY))
def test_embedded_scopes(preset):
    if not (catalog.TINY[preset] / "sae" / "config.json").exists():
        pytest.skip(f"{preset} has not been built yet (notebooks/00_build_tiny_scope.ipynb)")
    tiny = load_scope(preset, device="cpu")
    assert tiny.is_tiny and tiny.name == preset
    assert tiny.layers == tuple(range(tiny.n_layers))
    batch = tiny.tokens([tiny.chat("hello"), "hello"])
    assert tiny.model(**batch).logits.isfinite().all()
    assert tiny.provenance()["sae"]["source"].startswith("qs_helpers/tiny/")


TEXT = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
DELTA = {
    f"linear_{what}": size
    for what, size in (("num_key_heads", 2), ("num_value_heads", 2), ("key_head_dim", 4))
} | {"linear_value_head_dim": 4}
VISION = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "patch_size": 4}


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("Qwen3Moe", TEXT | EXPERTS),
        ("Qwen3_5", TEXT | DELTA),
        ("Qwen3_5Moe", TEXT | DELTA | EXPERTS | {"shared_expert_intermediate_size": 8}),
    ],
)
def test_other_families_load_from_the_layout_of_their_repos(model, tmp_path, family, text):
    """Qwen3.5 repos hold a vision model too, with the language model's config inside theirs."""
    import shutil

    import transformers

    shutil.copytree(model, tmp_path / "model")
    config_class = getattr(transformers, f"{family}Config")
    if "3_5" in family:
        config = config_class(
            text_config=text,
            vision_config=VISION | {"out_hidden_size": 16},
            tie_word_embeddings=False,
        )
        network = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    else:
        network = getattr(transformers, f"{family}ForCausalLM")(config_class(**text))
    hook = transformers.utils.logging.set_tqdm_hook(
        lambda bar, args, kwargs: bar(*args, **kwargs | {"disable": True})
    )
    network.save_pretrained(tmp_path / "model")
    transformers.utils.logging.set_tqdm_hook(hook)
    suite = write_suite(tmp_path / "suite", layers=range(4), n_layers=4)
    found = load_scope(model=tmp_path / "model", sae=suite, device="cpu")
    assert found.n_layers == 4
    saved = network.get_input_embeddings().weight
    assert torch.equal(found.model.get_input_embeddings().weight, saved)
    assert torch.equal(found.model.lm_head.weight, network.lm_head.weight)


# ---- a model without SAEs


@pytest.fixture(scope="module")
def alone(model):
    return load_language_model(model, device="cpu")


def test_a_language_model_alone(alone, loaded, model):
    assert (alone.n_layers, alone.d_model, alone.name) == (3, 16, str(model))
    assert (alone.device, alone.dtype) == (torch.device("cpu"), torch.float32)
    assert alone.batch_tokens == loaded.batch_tokens and not alone.is_tiny
    assert "3 layers" in repr(alone)
    assert load_language_model(model, device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_a_folder_may_have_an_at_sign_in_its_name(model, tmp_path):
    """It is no revision there."""
    folder = shutil.copytree(model, tmp_path / "lab" / "model@2")
    assert load_language_model(folder, device="cpu").name == str(folder)


def test_a_language_model_reads_scores_and_writes_as_its_scope_does(alone, loaded):
    texts = ["one text", alone.chat("another")]
    here, there = (list(residuals(model, texts, [0, 2])) for model in (alone, loaded))
    assert [part.layer for part in here] == [0, 2]
    for part, same in zip(here, there, strict=True):
        assert torch.equal(part.x, same.x) and torch.equal(part.ids, same.ids)
    assert (text_nats(alone, texts) == text_nats(loaded, texts)).all()
    assert generate(alone, texts, max_new_tokens=3) == generate(loaded, texts, max_new_tokens=3)


def test_provenance_of_a_scope_is_that_of_its_model_and_more(alone, loaded):
    here, there = alone.provenance(), loaded.provenance()
    assert {key: there[key] for key in here} == here | {"name": loaded.name}
    here, there = alone.fingerprint(), loaded.fingerprint([1])
    assert there["files"][:1] == here["files"] and len(there["files"]) == 2
    assert there["dtype"] == here["dtype"] and here == alone.fingerprint([1])


def test_a_language_model_that_is_too_large_is_refused_before_its_weights_are_fetched(
    model, monkeypatch
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(hub, "fetch_weights", lambda source: pytest.fail("fetched"))
    with pytest.raises(MemoryError) as caught:
        load_language_model(model, device="cpu")
    message = str(caught.value)
    assert "is free" in message and "with short texts" in message and "SAE" not in message


def test_language_models_that_are_refused(model, tmp_path):
    from safetensors.torch import load_file, save_file

    with pytest.raises(FileNotFoundError, match="neither a folder here nor a Hub repo"):
        load_language_model(tmp_path / "nothing")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        load_language_model(model, dtype="int8")
    path = write_model(tmp_path / "model") / "model.safetensors"
    whole = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: t for key, t in whole.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights, {name}"):
        load_language_model(path.parent, device="cpu")
    whole[name][0, 0] = float("nan")
    save_file(whole, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"NaN or inf in {name}"):
        load_language_model(path.parent, device="cpu")


# ---- where metadata comes from


def test_config_says_k_before_the_folder_name_does(model, tmp_path):
    suite = write_suite(tmp_path / "SAE-Res-x-W1K-L0_8", k=5)
    assert load_scope(model=model, sae=suite, device="cpu").k == 5


def test_folder_name_says_k_and_width_without_a_config(model, tmp_path):
    suite = write_suite(tmp_path / "SAE-Res-x-W1K-L0_8", d_sae=1024, config=False)
    found = load_scope(model=model, sae=suite, device="cpu")
    assert (found.k, found.d_sae, found.d_model) == (8, 1024, 16)


def test_tensor_shapes_say_widths_but_k_must_be_given(model, tmp_path):
    suite = write_suite(tmp_path / "renamed", config=False)
    refused(ValueError, "k of", "renamed", "pass k= (1 to 64)", model=model, sae=suite)
    found = load_scope(model=model, sae=suite, device="cpu", k=7)
    assert (found.k, found.d_sae) == (7, 64) and found.sae(0).k == 7


def test_a_community_suite_in_safetensors(model, tmp_path):
    from safetensors.torch import save_file

    official = random_sae()
    theirs = {key: t.T.contiguous() if t.ndim == 2 else t for key, t in official.items()}
    save_file(theirs, tmp_path / "sae_L1_latest.safetensors")
    (tmp_path / "sae_L1_resume.pt").write_bytes(b"not an SAE")
    (tmp_path / "sae_L1_cfg.json").write_text(json.dumps({"d_in": 16, "d_sae": 64, "k": 3}))
    found = load_scope(model=model, sae=tmp_path, device="cpu")
    assert (found.layers, found.k) == ((1,), 3)
    assert torch.equal(found.sae(1).W_enc, official["W_enc"])


# ---- another suite of the same model


def test_a_sibling_shares_the_model(model, tmp_path):
    one = load_scope(model=model, sae=write_suite(tmp_path / "one"), device="cpu")
    assert one.sibling() is None
    write_suite(tmp_path / "one-narrow", d_model=8)  # cannot read this model
    (tmp_path / "one-empty").mkdir()
    write_suite(tmp_path / "ones")  # another name
    assert one.sibling() is None
    write_suite(tmp_path / "one-wide", layers=[1], d_sae=96, k=8)
    other = one.sibling()
    assert other.model is one.model and other.tokenizer is one.tokenizer
    assert (other.name, other.layers, other.d_sae, other.k) == ("one-wide", (1,), 96, 8)
    assert other.sae(1).W_enc.shape == (96, 16) and one.sae(1).W_enc.shape == (64, 16)
    (part,) = activations(other, ["ab"])
    assert part.acts.values.shape == (2, 8)
    used = other.provenance()["sae"]
    assert used["source"].endswith("one-wide") and list(used["files"]) == ["layer1.sae.pt"]


def test_a_suite_without_a_sibling_says_how_to_get_one(model, tmp_path):
    one = load_scope(model=model, sae=write_suite(tmp_path / "one"), device="cpu")
    assert one.sibling_note(1) == (
        f"notebook 10 trains one; put its folder beside one, as one-k{2 * one.k}"
    )
    one.name = "qwen3-1.7b-l50"  # an official group: the other k, at its own size
    other = catalog.GROUPS["qwen3-1.7b-l100"]
    size = f"{other.layer_bytes / 1e9:.1f} GB"
    assert one.sibling_note(1) == (
        f"qs.load_scope('qwen3-1.7b-l100').sae(1) fetches this layer, {size}"
    )
    one.name = "lab/model + lab/suite"  # any other repository
    one._sae_source = one._sae_source._replace(name="lab/suite", commit="0" * 40)
    assert one.sibling_note(1).startswith("beside a suite of the Hub none is looked for")


@pytest.mark.parametrize("name", catalog.TINY)
def test_an_embedded_model_has_no_sibling(name):
    assert load_scope(name).sibling() is None


# ---- the cache of SAEs


def test_saes_are_kept_and_given_up_by_bytes(model, suite):
    layer_bytes = 4 * (2 * 16 * 64 + 16 + 64)
    two = load_scope(model=model, sae=suite, device="cpu", cache_bytes=2 * layer_bytes)
    first, second = two.sae(0), two.sae(1)
    assert two.sae(0) is first  # used last, so layer 1 goes when layer 2 comes
    two.sae(2)
    assert two.sae(0) is first and two.sae(1) is not second
    assert two.sae(np.int64(1)) is two.sae(1)


def test_one_sae_is_kept_even_if_larger_than_the_cache(model, suite):
    small = load_scope(model=model, sae=suite, device="cpu", cache_bytes=0)
    assert small.sae(0) is small.sae(0)


# ---- texts


def test_batches_are_padded_on_the_left(loaded):
    batch = loaded.tokens(["abc", "a"])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("text", ["a", "👩‍👩‍👧 ok", "مرحبا", " ", "中文", "\x00"])
def test_texts_survive_the_round_trip(loaded, text):
    ids = loaded.tokens(text)["input_ids"]
    assert loaded.tokenizer.decode(ids[0]) == text


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "texts is empty"),
        (["a", ""], "text 1 is ''; each text must be a non-empty string"),
        (["a", None], "text 1 is None"),
        (["ab\ud83d"], "text 0 holds half a character at position 2"),
        (["a", "b" * 65], "text 1 has 65 tokens; split it: the model reads at most 64"),
        (["b" * 10**8], "text 0 has 100,000,000 characters; split it: the model reads at most 64"),
    ],
)
def test_texts_that_are_refused(loaded, texts, words):
    with pytest.raises(ValueError, match=words):
        loaded.tokens(texts)


def test_chat_template(loaded, suite, tmp_path):
    assert loaded.chat("hi") == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    assert loaded.chat(talk, add_generation_prompt=False).endswith("assistant\nyes<|im_end|>\n")
    plain = load_scope(model=write_model(tmp_path, chat_template=None), sae=suite, device="cpu")
    with pytest.raises(ValueError, match="has no chat template; pass plain text"):
        plain.chat("hi")


# ---- what a tokenizer adds

BOS = 0  # "<|endoftext|>"


@pytest.fixture(scope="module")
def begun(tmp_path_factory, suite):
    """A scope whose tokenizer adds a BOS, as Llama's does."""
    folder = add_bos(write_model(tmp_path_factory.mktemp("begun")))
    return load_scope(model=folder, sae=suite, device="cpu")


@pytest.mark.parametrize("preset", list(catalog.TINY))
def test_nothing_is_added_where_the_tokenizer_adds_nothing(loaded, preset):
    for scope in (loaded, load_scope(preset, device="cpu")):
        texts = ["a text", scope.chat("a request"), "b"]
        assert scope.prefix == ()
        assert scope.ids(texts) == scope.own_ids(texts) == scope.tokenizer(texts)["input_ids"]
        assert scope.provenance()["tokenizer"] == {"adds": [], "thinking": False}


def test_a_bos_is_added_once(begun):
    texts = ["ab", begun.chat("hi"), "<|endoftext|>ab"]
    plain, chat, said = begun.ids(texts)
    assert begun.prefix == (BOS,) and plain == begun.tokenizer("ab")["input_ids"] == said
    assert chat.count(BOS) == 1 and begun.tokenizer.decode(chat) == texts[1]
    assert begun.own_ids(texts) == [plain[1:], chat[1:], plain[1:]]
    batch = begun.tokens(["ab", "a"])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert batch["input_ids"][:, 1].tolist() == [plain[1], BOS]
    assert begun.tokens([[5, 6]])["input_ids"].tolist() == [[5, 6]], "ids are taken as they are"
    with pytest.raises(ValueError, match="text 0 has 65 tokens"):
        begun.ids("b" * 64)
    assert begun.provenance()["tokenizer"]["adds"] == ["<|endoftext|>"]
    assert begun.fingerprint([1])["prefix"] == [BOS]


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("<|endoftext|> $A <|im_end|>", (0,)),
        ("$A <|im_end|>", ()),
        ("<|im_start|> <|im_end|> $A", (1, 2)),
    ],
)
def test_what_a_tokenizer_puts_after_a_text_is_left_out(tmp_path, pattern, prefix):
    """An EOS would end the prompt that is to be continued."""
    found = load_language_model(add_bos(write_model(tmp_path), pattern), device="cpu")
    assert found.prefix == prefix
    text = found.tokenizer("ab", add_special_tokens=False)["input_ids"]
    assert found.ids(["ab"]) == [[*prefix, *text]]


def test_a_reading_is_measured_on_the_texts_themselves(begun, monkeypatch):
    seen = {}
    monkeypatch.setattr(module, "check_reading", lambda sae, residuals: seen.update(residuals))
    begun._check(begun.sae(1), ["abc", "de"])
    assert {layer: len(x) for layer, x in seen.items()} == dict.fromkeys((0, 1, 2), 5)


THINKING = CHATML + "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}"


def test_thinking_is_a_setting(suite, tmp_path):
    folder = write_model(tmp_path, chat_template=THINKING)
    for thinking in (None, False, True):
        found = load_scope(model=folder, sae=suite, device="cpu", thinking=thinking)
        assert found.chat("hi").endswith("<think>") == bool(thinking)
        assert found.provenance()["tokenizer"]["thinking"] is bool(thinking)


@pytest.mark.parametrize("template", [CHATML, None])
def test_thinking_without_a_switch_is_refused_before_the_weights_are_fetched(
    suite, tmp_path, template, monkeypatch
):
    folder = write_model(tmp_path, chat_template=template)
    monkeypatch.setattr(hub, "fetch_weights", lambda source: pytest.fail("fetched"))
    refused(ValueError, "thinking=True", "enable_thinking", model=folder, sae=suite, thinking=True)


# ---- provenance


def test_provenance_is_json_and_lists_the_files_that_were_used(model, suite):
    import hashlib

    fresh = load_scope(model=model, sae=suite, device="cpu")
    assert fresh.provenance()["sae"]["files"] == {}
    fresh.sae(2)
    found = json.loads(json.dumps(fresh.provenance()))
    digest = hashlib.sha256((suite / "layer2.sae.pt").read_bytes()).hexdigest()
    assert found["sae"]["files"] == {"layer2.sae.pt": {"sha256": digest, "from": "file"}}
    assert list(found["model"]["files"]) == ["model.safetensors"]
    assert found["versions"]["torch"] == torch.__version__
    assert (found["device"], found["dtype"], found["k"]) == ("cpu", "float32", 4)


# ---- the reading, measured at load

TINY_SAE = catalog.TINY["tiny"] / "sae"


def tiny_suite(folder, change=lambda weights: weights, layers=range(6), step=0, **config):
    """The suite of tiny with each file changed; layer n gets the SAE of layer n + step."""
    folder.mkdir()
    said = json.loads((TINY_SAE / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(said))
    for layer in layers:
        weights = torch.load(TINY_SAE / f"layer{layer + step}.sae.pt", weights_only=True)
        torch.save(change(weights), folder / f"layer{layer}.sae.pt")
    return folder


def with_tiny(suite, **given):
    return load_scope(model=catalog.TINY["tiny"] / "model", sae=suite, device="cpu", **given)


def centred(weights):
    """The same function of x, read as W_enc (x - b_dec) + b_enc."""
    return weights | {"b_enc": weights["b_enc"] + weights["W_enc"] @ weights["b_dec"]}


def turned(weights):
    return weights | {name: weights[name].T.contiguous() for name in ("W_enc", "W_dec")}


def scaled(weights, scale, written):
    """The same function of x, read with an input scale; the file says `written`."""
    w = turned(centred(weights))
    state = {"W_enc": w["W_enc"] / scale, "W_dec": w["W_dec"] * scale, "b_enc": w["b_enc"]}
    return {"state": state | {"b_pre": w["b_dec"] * scale}, "scale": written, "k": 48}


@pytest.mark.parametrize(
    ("change", "declared", "better"),
    [
        (lambda w: w, "centered", "official"),
        (centred, None, "centered"),
        (turned, None, "transposed"),  # read as the suites are that have this layout
        (lambda w: turned(centred(w)), "transposed", "openinterpretability"),
    ],
)
def test_a_wrong_convention_is_found_at_load(tmp_path, change, declared, better):
    said = {"convention": declared} if declared else {}
    suite = tiny_suite(tmp_path / "s", change, [2, 3], **said)
    words = rf"read as '.*' at layer 3 has FVU .*'{better}' at layer 3 only 0.*convention="
    with pytest.raises(ValueError, match=words) as caught:
        with_tiny(suite)
    assert "layer3.sae.pt" in str(caught.value) and "\n" not in str(caught.value)
    with_tiny(suite, check=False)
    right = with_tiny(suite, convention=better)
    assert right.sae(3).convention == better and hooks_left(right.model) == 0


@pytest.mark.parametrize("step", [1, -1])
def test_files_of_the_next_layer_are_found_at_load(tmp_path, step):
    suite = tiny_suite(tmp_path / "s", layers=range(1, 5), step=step)
    words = f"layer3.sae.pt.* at layer 3 has FVU .* as 'official' at layer {3 + step} only"
    with pytest.raises(ValueError, match=words):
        with_tiny(suite)


def test_an_input_scale_that_is_not_to_be_applied_is_found_at_load(tmp_path):
    right = tiny_suite(tmp_path / "right", lambda w: scaled(w, 0.2, 0.2), [3])
    assert with_tiny(right).sae(3).input_scale == 0.2
    wrong = tiny_suite(tmp_path / "wrong", lambda w: scaled(w, 1, 0.2), [3])
    with pytest.raises(ValueError, match="its input scale' at layer 3 .*; set scale to 1 in its"):
        with_tiny(wrong)


def test_a_suite_that_is_declared_in_another_layout_is_refused_by_its_shapes(tmp_path):
    suite = tiny_suite(tmp_path / "s", turned, [3], convention="official")
    with pytest.raises(ValueError, match=r"W_enc of shape \(128, 1024\).*'openinterpretability'"):
        with_tiny(suite)


@pytest.mark.parametrize("preset", list(catalog.TINY))
def test_a_suite_on_another_fine_tune_is_no_false_alarm(preset):
    """Nor are texts of another world, here those of every model that is not embedded."""
    scope = load_scope(model=catalog.TINY[preset] / "model", sae=TINY_SAE, device="cpu")
    for layer in scope.layers:
        scope._check(scope.sae(layer))
        scope._check(scope.sae(layer), SENTENCES)


def test_the_reading_of_a_suite_that_is_not_here_yet_is_measured_once_it_is(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path / "s", layers=[2, 3], convention="centered")
    with monkeypatch.context() as away:
        away.setattr(Scope, "_local", lambda self, layer: None)
        found = with_tiny(suite)
    with capture(found.model, [0]):
        found.sae(2)  # no pass of ours between those of a block
    with pytest.raises(ValueError, match="'official' at layer 3"):
        found.sae(3)
    right = with_tiny(TINY_SAE)
    passes = []
    right.model.register_forward_pre_hook(lambda *_: passes.append(1))
    right.sae(0), right.sae(1)
    assert passes == [], "measured when it was loaded, and only then"


def test_the_measurement_leaves_no_trace(loaded, model, suite):
    plain = load_scope(model=model, sae=suite, device="cpu", check=False)
    fresh = load_scope(model=model, sae=suite, device="cpu")
    assert fresh.kept_bytes == 0 and fresh.provenance() == plain.provenance()
    ids = fresh.tokens("the same")
    assert torch.equal(fresh.model(**ids).logits, plain.model(**ids).logits)


# ---- bad input


def test_unknown_preset_is_answered_with_the_nearest():
    refused(ValueError, "'tiny-instuct'; did you mean tiny-instruct", preset="tiny-instuct")
    refused(ValueError, "'qwen3-8b-150'", "qwen3-8b-l50", preset="qwen3-8b-150")


def test_what_holds_another_model_is_not_taken_for_it(loaded, model, suite, tmp_path):
    again = load_scope(model=model, sae=suite, like=loaded, check=False)
    assert again.model is loaded.model
    other = write_model(tmp_path / "other")
    refused(ValueError, "like holds", "other", model=other, sae=suite, like=loaded)
    words = "thinking=True", "never asks for enable_thinking"
    refused(ValueError, *words, model=model, sae=suite, like=loaded, thinking=True)


def test_a_preset_that_names_no_model_says_which_line_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("scope:\n  sae: ./suite\n  dtype: float32\n")
    (tmp_path / "bare.yaml").write_text("01_load:\n  SEED: 1\n")
    with pytest.raises(ValueError, match="mine.yaml has no model in its section scope: give"):
        catalog.find_origin("mine", tmp_path)
    with pytest.raises(ValueError, match="bare.yaml has no model and no sae in its section scope"):
        catalog.find_origin("bare", tmp_path)


def test_a_suite_of_the_catalog_may_grow(model, suite, tmp_path):
    known = catalog.Group("lab-l4", "lab/suite", str(model), 3, 16, 64, 4, 1e6, some_layers=(0, 2))
    origin = catalog.Origin("lab-l4", model, suite, known)
    sources = hub.open_source(model), hub.open_source(suite)
    found = hub.read_group(origin, *sources, hub.read_suite(sources[1], origin))
    assert found.layers == (0, 1, 2) and found.name == "lab-l4"
    fewer = write_suite(tmp_path / "fewer")
    (fewer / "layer1.sae.pt").unlink()
    suite_there = hub.read_suite(hub.open_source(fewer), origin)
    assert hub.read_group(origin, *sources, suite_there) is known


def test_half_a_scope_is_refused(model):
    refused(ValueError, "give a preset, or both model= and sae=", model=model)


def test_unknown_dtype(model, suite):
    refused(ValueError, "dtype is 'fp8'", "bfloat16", model=model, sae=suite, dtype="fp8")


def test_missing_folder(model, tmp_path):
    refused(FileNotFoundError, "nowhere", "neither a folder", model=model, sae=tmp_path / "nowhere")


def test_revision_of_a_folder(model, suite):
    refused(ValueError, "local folder", "'v1'", model=model, sae=suite, sae_revision="v1")


def test_suite_of_another_width(model, tmp_path):
    suite = write_suite(tmp_path / "wide", d_model=32)
    refused(ValueError, "wide", "W_enc 64 x 32", "16 wide", model=model, sae=suite)


def test_suite_of_another_width_names_the_groups_that_fit(suite, tmp_path):
    model = write_model(tmp_path / "model", d_model=2048, n_layers=1)
    message = refused(ValueError, "W_enc 64 x 16", "2048 wide", model=model, sae=suite)
    assert "qwen3-1.7b-l50" in message and "qwen3.5-35b-a3b-l100" in message


def test_suite_of_another_depth(model, tmp_path):
    suite = write_suite(tmp_path / "deep", n_layers=28)
    refused(ValueError, "deep was trained on 28 layers", "has 3", model=model, sae=suite)
    suite = write_suite(tmp_path / "more", layers=range(5), config=False)
    refused(ValueError, "more was trained on 5 layers", "has 3", model=model, sae=suite, k=4)


def test_layers_out_of_range_and_without_a_file(model, tmp_path):
    some = load_scope(model=model, sae=write_suite(tmp_path, layers=(0, 2)), device="cpu")
    for layer in (3, -1, "1", 1.0, True):
        with pytest.raises(ValueError, match="valid layers are 0 to 2"):
            some.sae(layer)
    with pytest.raises(FileNotFoundError, match="no SAE file for layer 1; it has layers 0, 2"):
        some.sae(1)


@pytest.mark.parametrize("k", [0, 65, -1, 2.5])
def test_k_out_of_range(model, suite, k):
    refused(ValueError, f"k is {k}", "1 to 64", model=model, sae=suite, k=k)


def test_folder_without_saes(model, tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    refused(FileNotFoundError, "layer0.sae.pt", "it has notes.md", model=model, sae=tmp_path)


def test_broken_config(model, tmp_path):
    suite = write_suite(tmp_path)
    (suite / "config.json").write_text('{"k": 4,')
    refused(ValueError, "config.json is not valid JSON", model=model, sae=suite)


def bad_layer(model, folder, match):
    """Loading the suite works; reading its layer 0 is refused by the file's name."""
    found = load_scope(model=model, sae=folder, device="cpu")
    with pytest.raises(ValueError, match=match) as caught:
        found.sae(0).encode(torch.ones(1, 16))
    assert "layer0.sae.pt" in str(caught.value)


def test_truncated_layer_file(model, tmp_path):
    path = write_suite(tmp_path) / "layer0.sae.pt"
    path.write_bytes(path.read_bytes()[:-2000])
    bad_layer(model, tmp_path, "download it again")


def test_corrupt_layer_file(model, tmp_path):
    (write_suite(tmp_path) / "layer0.sae.pt").write_bytes(os.urandom(4096))
    bad_layer(model, tmp_path, "download it again")


class Foreign:
    """Unpickled carelessly, this writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_foreign_pickle_executes_nothing(model, tmp_path, plain_pickle):
    path, target = write_suite(tmp_path / "s") / "layer0.sae.pt", tmp_path / "executed"
    if plain_pickle:
        path.write_bytes(pickle.dumps(Foreign(target)))
    else:
        torch.save(random_sae() | {"extra": Foreign(target)}, path)
    bad_layer(model, tmp_path / "s", "nothing in it was executed")
    assert not target.exists()


@pytest.mark.parametrize("tensor", ["W_enc", "W_dec", "b_enc", "b_dec"])
def test_non_finite_sae_weights(model, tmp_path, tensor):
    weights = random_sae()
    weights[tensor].view(-1)[5] = float("nan")
    torch.save(weights, write_suite(tmp_path) / "layer0.sae.pt")
    found = load_scope(model=model, sae=tmp_path, device="cpu")
    with pytest.raises(ValueError, match=f"{tensor} of .*layer 0.* NaN or inf"):
        found.sae(0).reconstruct(torch.randn(20, 16))


def test_layer_of_another_dictionary_size(model, tmp_path):
    torch.save(random_sae(d_sae=32), write_suite(tmp_path) / "layer0.sae.pt")
    bad_layer(model, tmp_path, "has 32 features, but .* says 64")


def test_model_weights_that_are_truncated_missing_or_not_finite(suite, tmp_path):
    from safetensors.torch import load_file, save_file

    path = write_model(tmp_path / "model") / "model.safetensors"
    whole = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"

    path.write_bytes(path.read_bytes()[:-100])
    refused(ValueError, "model does not load", model=path.parent, sae=suite)

    save_file({key: t for key, t in whole.items() if key != name}, path, {"format": "pt"})
    refused(ValueError, f"lacks 1 weights, {name}", model=path.parent, sae=suite)

    whole[name][0, 0] = float("inf")
    save_file(whole, path, {"format": "pt"})
    refused(ValueError, f"NaN or inf in {name}", model=path.parent, sae=suite)

    path.unlink()
    refused(FileNotFoundError, "has no model.safetensors", model=path.parent, sae=suite)


def test_model_with_code_of_its_own_is_not_run(suite, tmp_path):
    folder = write_model(tmp_path / "model")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    refused(ValueError, "model does not load", model=folder, sae=suite)
    assert not (tmp_path / "executed").exists()


# ---- one name, one meaning


def test_owner_name_that_is_a_folder_here_too_is_refused(model, suite, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "lab" / "model")
    monkeypatch.chdir(tmp_path)
    words = "lab/model may mean a Hub repo or the folder", str(tmp_path / "lab" / "model")
    refused(ValueError, *words, model="lab/model", sae=suite)
    for name in ("./lab/model", Path("lab/model"), tmp_path / "lab" / "model"):
        found = load_scope(model=name, sae=suite, device="cpu")
        assert found.provenance()["model"]["source"] == str(tmp_path / "lab" / "model")


def test_names_do_not_show_whose_home_they_lie_in(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/bob")
    assert hub.portable("/srv/people/bob/models/m") == "~/models/m"
    assert hub.portable("/mnt/nfs/home/alice/secret/m") == "~/secret/m"


def test_of_two_sets_of_weights_the_one_that_is_loaded_is_hashed(suite, tmp_path):
    folder = write_model(tmp_path / "m")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    found = load_scope(model=folder, sae=suite, device="cpu")
    assert list(found.provenance()["model"]["files"]) == ["model.safetensors"]
    shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    words = "two sets of weights, model.safetensors and those of model.safetensors.index.json"
    refused(ValueError, words, "remove the one", model=folder, sae=suite)
    index.write_text('{"weight_map": {"a": "model.safetensors"}}')
    found = load_scope(model=folder, sae=suite, device="cpu")
    assert list(found.provenance()["model"]["files"]) == ["model.safetensors"]
    index.write_text("{}")
    refused(ValueError, "has no weight_map", model=folder, sae=suite)


def test_an_adapter_beside_whole_weights_is_refused_by_name(suite, tmp_path):
    folder = write_model(tmp_path / "m")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    refused(ValueError, "adapter_config.json", "merge it", model=folder, sae=suite)


# ---- what is checked of a tokenizer, and of the numbers of a config


@pytest.mark.parametrize("left", ["nothing", "config", "empty"])
def test_a_model_without_a_tokenizer_is_refused_at_load(suite, tmp_path, left, monkeypatch):
    folder = write_model(tmp_path / "m")
    monkeypatch.setattr(hub, "fetch_weights", lambda source: pytest.fail("fetched"))
    for path in folder.glob("*token*"):
        if path.name == "tokenizer.json" or left == "nothing":
            path.unlink()
    if left == "empty":
        (folder / "tokenizer.json").write_text("{}")
    refused(ValueError, "tokenizer", str(folder), model=folder, sae=suite)


@pytest.mark.parametrize("tokens", [["<|tool|>"], ["<a>", "<b>", "<c>"]])
def test_a_tokenizer_larger_than_the_embedding_is_refused_at_load(suite, tmp_path, tokens):
    from suites import byte_tokenizer

    folder = write_model(tmp_path / "m")
    tokenizer = byte_tokenizer(CHATML)
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.save_pretrained(folder)
    words = f"has {len(tokens)} tokens beyond the 259 rows", repr(tokens[-1])
    refused(ValueError, *words, model=folder, sae=suite)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_of_git_lfs_in_a_model_is_named(suite, tmp_path, file):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n"
    folder = write_model(tmp_path / "m")
    (folder / file).write_text(pointer)
    refused(ValueError, f"{file} is a Git LFS pointer", "git lfs pull", model=folder, sae=suite)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_layers", "3"), ("d_model", "16"), ("k", 4.0), ("k", True), ("d_sae", 0), ("k", [4])],
)
def test_numbers_of_a_suite_that_are_none_are_named(model, tmp_path, name, value):
    path = write_suite(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    refused(ValueError, f"says {name} is {value!r}; a whole number", model=model, sae=tmp_path)


@pytest.mark.parametrize(
    "said", [{"hook_point": "mlp_out"}, {"hook_name": "h.1.ln_2"}, {"architecture": "gated"}]
)
def test_a_suite_of_another_kind_is_refused(model, tmp_path, said):
    path = write_suite(tmp_path) / "config.json"
    path.write_text(json.dumps({"k": 4, "d_model": 16, "d_sae": 64, "num_layers": 3} | said))
    refused(ValueError, "config.json", *said, *said.values(), model=model, sae=tmp_path)


def test_hidden_companions_are_no_layers_and_two_claims_are_refused(model, tmp_path):
    write_suite(tmp_path)
    for layer in range(3):
        (tmp_path / f"._layer{layer}.sae.pt").write_bytes(b"\0\5\26\7" + bytes(60))
    found = load_scope(model=model, sae=tmp_path, device="cpu")
    assert found.sae(2).layer == 2 and found.layers == (0, 1, 2)
    torch.save(random_sae(seed=9), tmp_path / "layer01.sae.pt")
    refused(ValueError, "layer01.sae.pt and layer1.sae.pt", model=model, sae=tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_models_are_bf16_and_saes_float32(model, suite):
    found = load_scope(model=model, sae=suite)
    assert (found.device.type, found.dtype) == ("cuda", torch.bfloat16)
    assert found.sae(0).W_enc.dtype == torch.float32 and found.sae(0).W_enc.device.type == "cuda"


def test_an_own_suite_needs_an_embedded_model():
    with pytest.raises(ValueError, match="no suite of its own"):
        load_model_and_suite("Qwen/Qwen3-1.7B", "own")
