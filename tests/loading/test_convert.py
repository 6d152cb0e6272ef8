"""Suites of SAELens and of sparsify become ours, and ours SAELens's, with the same numbers."""

import json

import pytest
import torch
from safetensors.torch import save_file
from suites import random_sae, write_model, write_suite

import qs_helpers as qs
from qs_helpers.loading.convert import export_saelens, import_suite

D_MODEL, D_SAE, K = 16, 64, 4
X = 2 * torch.randn(200, D_MODEL, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saelens():
    # Here and not on top of the file: the import takes many seconds.
    reason = "sae-lens is not installed: pip install 'qs-helpers[interop]'"
    pytest.importorskip("sae_lens", reason=reason)
    return pytest.importorskip("sae_lens.saes.topk_sae", reason=reason)


def dense(acts):
    """[tokens, d_sae]"""
    return torch.zeros(len(acts.values), D_SAE).scatter_add(1, acts.indices, acts.values)


def assert_same(ours, features, reconstruction):
    """Which features fire is the same on every token, and every number to 1e-5."""
    acts = ours.encode(X)
    assert torch.equal(dense(acts) > 0, features > 0)
    assert (dense(acts) - features).abs().max() <= 1e-5
    assert (ours.decode(acts) - reconstruction).abs().max() <= 1e-5


def numbers(theirs):
    with torch.no_grad():
        features = theirs.encode(X)
        return features, theirs.decode(features)


# SAELens to ours


def of_saelens(saelens, layer=1, training=True, seed=0, **config):
    """A random SAE of SAELens whose decoder norms are 0.3 to 3 and whose biases are large."""
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(model_name="test/model", hook_name=f"blocks.{layer}.hook_resid_post")
    make = (saelens.TopKSAE, saelens.TopKSAEConfig)
    if training:
        make = (saelens.TopKTrainingSAE, saelens.TopKTrainingSAEConfig)
    config = {"d_in": D_MODEL, "d_sae": D_SAE, "k": K, "metadata": metadata} | config
    sae = make[0](make[1](**config))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            tensor = getattr(sae, name)
            tensor.copy_(torch.randn(tensor.shape, generator=noise) / 2)
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        sae.W_dec.mul_(0.3 + 2.7 * torch.rand(D_SAE, 1, generator=noise))
    return sae


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("how", ["inference", "training", "for inference"])
def test_what_saelens_saves_gives_its_numbers(saelens, tmp_path, how, centred, rescaled):
    switches = {"apply_b_dec_to_input": centred, "rescale_acts_by_decoder_norm": rescaled}
    theirs = of_saelens(saelens, training=how != "inference", **switches)
    save = theirs.save_inference_model if how == "for inference" else theirs.save_model
    save(tmp_path / "theirs")
    out = import_suite(tmp_path / "theirs", tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]
    ours = qs.load_sae(out / "layer1.sae.pt")
    assert (ours.convention, ours.k, ours.layer) == ("official", K, 1)
    assert {t.dtype for t in torch.load(out / "layer1.sae.pt").values()} == {torch.float32}
    assert_same(ours, *numbers(theirs))


def test_a_folder_of_folders_becomes_a_suite_that_a_scope_reads(saelens, tmp_path):
    theirs = {layer: of_saelens(saelens, layer, seed=layer) for layer in (2, 0)}
    for layer, sae in theirs.items():
        sae.save_inference_model(tmp_path / "theirs" / f"run{layer}")
    (tmp_path / "theirs" / "logs").mkdir()
    out = import_suite(tmp_path / "theirs", tmp_path / "ours")
    assert json.loads((out / "config.json").read_text()) == {
        "model_type": "topk_sae",
        "base_model": "test/model",
        "d_model": D_MODEL,
        "d_sae": D_SAE,
        "k": K,
        "hook_point": "resid_post",
    }
    scope = qs.load_scope(model=write_model(tmp_path / "model"), sae=out, device="cpu")
    assert (scope.layers, scope.k, scope.d_sae) == ((0, 2), K, D_SAE)
    for layer, sae in theirs.items():
        assert_same(scope.sae(layer), *numbers(sae))


def test_its_config_is_that_of_a_training_here(saelens, tmp_path):
    from qs_helpers.training.trainer import save_sae

    class Model:
        name, n_layers = "test/model", 3

    (tmp_path / "trained").mkdir()
    save_sae(tmp_path / "trained", 1, random_sae(D_MODEL, D_SAE), K, Model)
    of_saelens(saelens).save_model(tmp_path / "theirs")
    import_suite(tmp_path / "theirs", tmp_path / "ours")
    trained, ours = (
        json.loads((tmp_path / part / "config.json").read_text()) for part in ("trained", "ours")
    )
    assert trained.pop("num_layers") == 3, "the one entry that SAELens does not know"
    assert trained == ours


# Ours to SAELens


def test_saelens_reads_what_is_exported(saelens, tmp_path):
    from sae_lens import SAE

    suite = write_suite(tmp_path / "ours", layers=[0, 2], d_model=D_MODEL, d_sae=D_SAE, k=K)
    theirs = SAE.load_from_disk(export_saelens(suite, 2, tmp_path / "theirs"))
    assert isinstance(theirs, saelens.TopKSAE)
    said = theirs.cfg.metadata
    assert (said.model_name, said.hook_name) == ("test/model", "blocks.2.hook_resid_post")
    assert said.hf_hook_name == "model.layers.2"
    assert (theirs.cfg.k, theirs.cfg.apply_b_dec_to_input) == (K, False)
    assert_same(qs.load_sae(suite / "layer2.sae.pt"), *numbers(theirs))
    # `load_sae` opens the folder as it is.
    own = qs.load_sae(tmp_path / "theirs" / "sae_weights.safetensors")
    assert (own.layer, own.k) == (2, K)
    assert_same(own, *numbers(theirs))


def test_there_and_back_is_the_same_bit_for_bit(tmp_path):
    suite = write_suite(tmp_path / "ours", d_model=D_MODEL, d_sae=D_SAE, k=K)
    for layer in range(3):
        export_saelens(suite, layer, tmp_path / "theirs" / f"layer {layer}")
    import_suite(tmp_path / "theirs", tmp_path / "again")
    for layer in range(3):
        was, now = (
            torch.load(tmp_path / part / f"layer{layer}.sae.pt") for part in ("ours", "again")
        )
        assert was.keys() == now.keys()
        assert all(torch.equal(was[name], now[name]) for name in was)


def test_an_export_is_refused(tmp_path):
    suite = write_suite(tmp_path / "ours", layers=[0, 2])
    with pytest.raises(ValueError, match="ours has no SAE of layer 1; it has layers 0, 2"):
        export_saelens(suite, 1, tmp_path / "out")
    with pytest.raises(ValueError, match="ours exists and is not empty"):
        export_saelens(suite, 0, suite)
    broken = random_sae()
    broken["b_dec"][3] = float("nan")
    torch.save(broken, suite / "layer0.sae.pt")
    with pytest.raises(ValueError, match="b_dec in .*layer0.sae.pt holds NaN"):
        export_saelens(suite, 0, tmp_path / "out")
    config = json.loads((suite / "config.json").read_text())
    (suite / "config.json").write_text(json.dumps(config | {"convention": "centered"}))
    with pytest.raises(ValueError, match="layer2.sae.pt is read as 'centered'"):
        export_saelens(suite, 2, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# sparsify to ours: files as SparseCoder.save_to_disk of eai-sparsify 1.3.3 writes them

SPARSIFY = {
    "activation": "topk",
    "expansion_factor": 4,
    "normalize_decoder": True,
    "num_latents": 0,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": False,
    "d_in": D_MODEL,
}


def of_sparsify(folder, seed=0, more=None, **config):
    """Random tensors [d_sae, d_model] with biases, written to `folder`; returns them."""
    noise = torch.Generator().manual_seed(seed)
    tensors = {
        "encoder.weight": torch.randn(D_SAE, D_MODEL, generator=noise) / 4,
        "encoder.bias": torch.randn(D_SAE, generator=noise),
        "W_dec": torch.randn(D_SAE, D_MODEL, generator=noise) / 4,
        "b_dec": torch.randn(D_MODEL, generator=noise),
    } | (more or {})
    folder.mkdir(parents=True)
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(SPARSIFY | config))
    return tensors


def naive(x, t):
    """Features and reconstruction as sparsify computes them, outside of transcoders."""
    scores = torch.relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"])
    values, indices = scores.topk(K, dim=-1)
    features = torch.zeros_like(scores).scatter(-1, indices, values)
    return features, features @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("name", ["layers.{}", "h.{}", "gpt_neox.layers.{}"])
def test_sparsify_gives_its_numbers(tmp_path, name):
    run = tmp_path / "run"
    theirs = {n: of_sparsify(run / name.format(n), seed=n) for n in (10, 2)}
    (run / "config.json").write_text(json.dumps({"model": "test/model", "sae": SPARSIFY}))
    out = import_suite(run, tmp_path / "ours")
    assert json.loads((out / "config.json").read_text())["base_model"] == "test/model"
    for layer, tensors in theirs.items():
        assert_same(qs.load_sae(out / f"layer{layer}.sae.pt"), *naive(X, tensors))
    one = import_suite(run / name.format(2), tmp_path / "one")
    assert sorted(path.name for path in one.iterdir()) == ["config.json", "layer2.sae.pt"]


def test_sparsify_in_16_bits_is_computed_in_32(tmp_path):
    exact = of_sparsify(tmp_path / "layers.1")
    stored = {name: tensor.bfloat16() for name, tensor in exact.items()}
    save_file(stored, tmp_path / "layers.1" / "sae.safetensors")
    out = import_suite(tmp_path / "layers.1", tmp_path / "ours")
    widened = {name: tensor.float() for name, tensor in stored.items()}
    assert_same(qs.load_sae(out / "layer1.sae.pt"), *naive(X, widened))


# Refusals

HOOK = "blocks.1.hook_resid_post"
SAELENS = {
    "architecture": "topk",
    "d_in": D_MODEL,
    "d_sae": D_SAE,
    "k": K,
    "apply_b_dec_to_input": True,
    "rescale_acts_by_decoder_norm": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"model_name": "test/model", "hook_name": HOOK, "hook_head_index": None},
}


def as_saelens(folder, more=None, d_sae=D_SAE, hook=HOOK, **config):
    tensors = random_sae(D_MODEL, d_sae)
    tensors |= {name: tensors[name].T.contiguous() for name in ("W_enc", "W_dec")}
    folder.mkdir(parents=True)
    save_file(tensors | (more or {}), folder / "sae_weights.safetensors")
    config = SAELENS | {"d_sae": d_sae} | config
    config["metadata"] = config["metadata"] | {"hook_name": hook}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def refused(source, message):
    out = source.parent / "refused"
    with pytest.raises(ValueError, match=message):
        import_suite(source, out)
    assert not list(out.parent.glob(f"*{out.name}*")), "nothing is left of it"


NAN = torch.full((D_MODEL,), float("nan"))


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("says architecture is 'jumprelu'", {"architecture": "jumprelu"}),
        ("says architecture is 'batchtopk'", {"architecture": "batchtopk"}),
        ("says architecture is 'topk_transcoder'", {"architecture": "topk_transcoder"}),
        ("says architecture is None", {"architecture": None}),
        ("says architecture is None", {"architecture": None, "activation_fn": "relu"}),
        ("says hook_name is None", {"hook": None}),
        ("says hook_name is 'hook_resid_post'", {"hook": "hook_resid_post"}),
        ("says hook_name is 'blocks.1.hook_mlp_out'", {"hook": "blocks.1.hook_mlp_out"}),
        ("says hook_name is 'blocks.1.hook_resid_pre'", {"hook": "blocks.1.hook_resid_pre"}),
        ("says hook_name_out is 'blocks.2", {"hook_name_out": "blocks.2.hook_resid_post"}),
        ("says normalize_activations is 'layer_norm'", {"normalize_activations": "layer_norm"}),
        ("says reshape_activations is 'hook_z'", {"reshape_activations": "hook_z"}),
        ("says apply_b_dec_to_input is 'no'", {"apply_b_dec_to_input": "no"}),
        ("says activation_fn_kwargs.signed", {"activation_fn_kwargs": {"signed": True}}),
        ("says k is 4; in activation_fn_kwargs it is 5", {"activation_fn_kwargs": {"k": 5}}),
        ("says k is None", {"k": None}),
        ("says k is 65; a whole number from 1 to 64", {"k": 65}),
        ("says d_in is 8; the weights beside it have 16", {"d_in": 8}),
        ("b_dec in .*theirs holds NaN", {"more": {"b_dec": NAN}}),
        ("holds more than a TopK SAE: threshold", {"more": {"threshold": torch.ones(D_SAE)}}),
        ("feature 0 in .*theirs has a decoder", {"more": {"W_dec": torch.zeros(D_SAE, D_MODEL)}}),
    ],
)
def test_what_is_no_plain_topk_sae_of_saelens_is_refused_by_name(tmp_path, message, changes):
    refused(as_saelens(tmp_path / "theirs", **changes), f"theirs.*{message}|{message}")


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("says transcode is True", {"transcode": True}),
        ("says skip_connection is True", {"skip_connection": True}),
        ("says embed_skip is True", {"embed_skip": True}),
        ("says signed is True", {"signed": True}),
        ("says activation is 'groupmax'", {"activation": "groupmax"}),
        ("says k is 0", {"k": 0}),
        ("says num_latents is 32; the weights beside it have 64", {"num_latents": 32}),
        ("b_dec in .*layers.1 holds NaN", {"more": {"b_dec": NAN}}),
        ("holds more than a TopK SAE: W_skip", {"more": {"W_skip": torch.ones(2, 2)}}),
        ("has encoder.bias of dtype torch.int64", {"more": {"encoder.bias": torch.ones(2).long()}}),
        ("has W_dec of shape", {"more": {"W_dec": torch.ones(D_MODEL, D_SAE)}}),
    ],
)
def test_what_is_no_plain_topk_sae_of_sparsify_is_refused_by_name(tmp_path, message, changes):
    of_sparsify(tmp_path / "layers.1", **changes)
    refused(tmp_path / "layers.1", message)


@pytest.mark.parametrize("name", ["layers.1.mlp", "layers.1.attn", "embed_tokens", "layers.one"])
def test_a_place_that_is_not_after_a_layer_is_refused(tmp_path, name):
    of_sparsify(tmp_path / name)
    refused(tmp_path / name, rf"the name of .*{name} says (hook_name is '{name}'|no layer)")


def test_folders_that_are_no_one_suite_are_refused(tmp_path):
    def pair(case, **changes):
        as_saelens(tmp_path / case / "a", hook="blocks.0.hook_resid_post")
        as_saelens(tmp_path / case / "b", **changes)
        return tmp_path / case

    same = pair("same", hook="blocks.0.hook_resid_post")
    refused(same, "same/a and .*same/b both are SAEs of layer 0")
    refused(pair("k", **{"k": 5}), "k is 4 in .*k/a but 5 in .*k/b")
    refused(pair("wide", d_sae=32), "d_sae is 64 in .*wide/a but 32 in .*wide/b")
    other = {"model_name": "test/other"}
    refused(pair("model", metadata=other), "base_model is 'test/model' in .*a but 'test/other'")
    refused(pair("late", more={"b_dec": NAN}), "b_dec in .*late/b holds NaN")


def test_out_is_a_new_folder(tmp_path):
    theirs = as_saelens(tmp_path / "theirs")
    out = tmp_path / "deep" / "ours"
    out.mkdir(parents=True)
    assert import_suite(theirs, out) == out
    before = (out / "layer1.sae.pt").stat()
    with pytest.raises(ValueError, match="ours exists and is not empty"):
        import_suite(theirs, out)
    with pytest.raises(ValueError, match="cfg.json exists and is not empty"):
        import_suite(theirs, theirs / "cfg.json")
    assert (out / "layer1.sae.pt").stat() == before


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        import_suite(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="has no SAE of SAELens or sparsify"):
        import_suite(tmp_path, tmp_path / "out")
    theirs = as_saelens(tmp_path / "theirs")
    config = (theirs / "cfg.json").read_text()
    (theirs / "cfg.json").write_text("[]")
    with pytest.raises(ValueError, match="cfg.json is no JSON object"):
        import_suite(theirs, tmp_path / "out")
    (theirs / "cfg.json").unlink()
    with pytest.raises(FileNotFoundError, match="no cfg.json in .*theirs"):
        import_suite(theirs, tmp_path / "out")
    (theirs / "cfg.json").write_text(config)
    weights = theirs / "sae_weights.safetensors"
    weights.rename(tmp_path / "whole")
    with pytest.raises(FileNotFoundError, match="no SAE file .*sae_weights.safetensors"):
        import_suite(theirs, tmp_path / "out")
    weights.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="sae_weights.safetensors is not a whole"):
        import_suite(theirs, tmp_path / "out")
    (tmp_path / "whole").replace(weights)
    assert import_suite(theirs, tmp_path / "out").is_dir()
