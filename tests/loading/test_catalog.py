"""The catalog of suites, and what the name of a preset stands for."""

import re

import pytest

from qs_helpers.loading.catalog import (
    COMMUNITY,
    GROUPS,
    TINY,
    TINY_SENTENCES,
    file_layer,
    get_group,
    groups_for,
    layer_files,
    refuse_other_sae,
    spans,
)

# name -> (repo, layers, d_model, d_sae, k, GB of one variant in float32), from the release table
RELEASE = {
    "qwen3-1.7b-l50": ("Qwen3-1.7B-Base-W32K-L0_50", 28, 2048, 32768, 50, 15.0),
    "qwen3-1.7b-l100": ("Qwen3-1.7B-Base-W32K-L0_100", 28, 2048, 32768, 100, 15.0),
    "qwen3-8b-l50": ("Qwen3-8B-Base-W64K-L0_50", 36, 4096, 65536, 50, 77.3),
    "qwen3-8b-l100": ("Qwen3-8B-Base-W64K-L0_100", 36, 4096, 65536, 100, 77.3),
    "qwen3.5-2b-l50": ("Qwen3.5-2B-Base-W32K-L0_50", 24, 2048, 32768, 50, 12.9),
    "qwen3.5-2b-l100": ("Qwen3.5-2B-Base-W32K-L0_100", 24, 2048, 32768, 100, 12.9),
    "qwen3.5-9b-l50": ("Qwen3.5-9B-Base-W64K-L0_50", 32, 4096, 65536, 50, 68.7),
    "qwen3.5-9b-l100": ("Qwen3.5-9B-Base-W64K-L0_100", 32, 4096, 65536, 100, 68.7),
    "qwen3.5-27b-l50": ("Qwen3.5-27B-W80K-L0_50", 64, 5120, 81920, 50, 214.8),
    "qwen3.5-27b-l100": ("Qwen3.5-27B-W80K-L0_100", 64, 5120, 81920, 100, 214.8),
    "qwen3-30b-a3b-l50": ("Qwen3-30B-A3B-Base-W32K-L0_50", 48, 2048, 32768, 50, 25.8),
    "qwen3-30b-a3b-l100": ("Qwen3-30B-A3B-Base-W128K-L0_100", 48, 2048, 131072, 100, 103.1),
    "qwen3.5-35b-a3b-l50": ("Qwen3.5-35B-A3B-Base-W32K-L0_50", 40, 2048, 32768, 50, 21.5),
    "qwen3.5-35b-a3b-l100": ("Qwen3.5-35B-A3B-Base-W128K-L0_100", 40, 2048, 131072, 100, 85.9),
}


def test_the_official_release_exactly():
    assert set(GROUPS) == set(RELEASE)
    for name, (repo, n_layers, d_model, d_sae, k, gigabytes) in RELEASE.items():
        group = GROUPS[name]
        assert group.sae_repo == f"Qwen/SAE-Res-{repo}"
        assert group.model_repo == "Qwen/" + repo.split("-W")[0]
        assert (group.n_layers, group.d_model, group.d_sae, group.k) == (
            n_layers,
            d_model,
            d_sae,
            k,
        )
        assert group.layers == tuple(range(n_layers))
        assert group.layer_bytes * n_layers / 1e9 == pytest.approx(gigabytes, abs=0.06)
        assert group.moe == ("A3B" in repo)
        assert group.post_trained == ("27B" in repo)
        assert "caution" in group.licence
    assert sum(len(group.layers) for group in GROUPS.values()) == 544


def test_mixture_of_experts_couples_width_and_k():
    assert {(g.d_sae, g.k) for g in GROUPS.values() if g.moe} == {(32768, 50), (131072, 100)}


def test_revisions_are_commits_or_main():
    for group in (GROUPS | COMMUNITY).values():
        for revision in (group.revision, group.model_revision):
            assert revision == "main" or re.fullmatch("[0-9a-f]{40}", revision)
    pinned = "ce1a79d9c5163932d65c417380e53230e1086370"
    assert GROUPS["qwen3-1.7b-l50"].revision == pinned


def test_conventions_and_file_names_are_those_that_the_reader_knows():
    from qs_helpers.sae import CONVENTIONS

    for group in (GROUPS | COMMUNITY).values():
        assert group.convention in CONVENTIONS
    for name in ("layer11.sae.pt", "sae_L11_latest.safetensors"):
        assert file_layer(name) == 11


def test_tiny_scopes_lie_in_the_package():
    assert set(TINY) == {"tiny", "tiny-instruct", "tiny-sft", "tiny-moe"}
    assert [folder.name for folder in TINY.values()] == ["base", "instruct", "sft", "moe"]


def test_the_sentences_of_the_tiny_world_are_of_its_grammar():
    from qs_helpers.tiny import judge

    lines = TINY_SENTENCES.read_text("utf-8").splitlines()
    assert len(lines) == 8 and all(judge.sentences(line) for line in lines)


def test_unknown_group_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'qwen3-8b'; did you mean .*qwen3-8b-l50"):
        get_group("qwen3-8b")
    with pytest.raises(ValueError, match="qwen3-1.7b-l50"):
        get_group("zzz")


def test_groups_by_width():
    assert groups_for(5120) == ["qwen3.5-27b-l50", "qwen3.5-27b-l100", "openinterp-qwen3.6-27b"]
    assert groups_for(7) == []


def test_spans():
    assert [spans(s) for s in ((0, 1, 2), (11, 31), (4,), ())] == ["0 to 2", "11, 31", "4", "none"]


# ---- which file is a layer's


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("layer007.sae.pt", 7),
        ("Layer_7.safetensors", 7),
        ("layer12_L0_50.safetensors", 12),
        ("sae_L0_100_layer12.pt", 12),
        ("sae_L12_L0_50.pt", 12),
        ("sae_L0_50.pt", 0),
        ("layer\u0663.pt", None),  # a digit, but of another script
    ],
)
def test_one_rule_for_names(name, layer):
    assert file_layer(name) == layer


def test_a_name_of_two_layers_is_refused():
    with pytest.raises(ValueError, match="layer3_to_layer5.pt names layers 3, 5: rename it"):
        file_layer("layer3_to_layer5.pt")


@pytest.mark.parametrize(
    ("others", "layers"),
    [
        (["._layer0.sae.pt", "._layer9.sae.pt"], {}),
        ([".layer1.sae.pt", ".DS_Store", "layer2.sae.pt~", "layer2.sae.pt.part"], {}),
        (["old/layer0.sae.pt", "__MACOSX/._layer3.sae.pt"], {}),
        (["layer4.safetensors", "sae_L5_latest.safetensors"], {4: 0, 5: 1}),
        (["layer1.pt", "layer7.pt"], {7: 1}),  # layer 1 has its file already
        (["layer0_resume.pt", "layer6.ckpt.pt", "layer6_optimizer.pt"], {}),
        (["README.md", "config.json", "model.safetensors"], {}),
    ],
)
def test_companions_are_left_out_and_mixed_endings_joined(others, layers):
    own = {0: "layer0.sae.pt", 1: "layer1.sae.pt"}
    want = own | {layer: others[place] for layer, place in layers.items()}
    for files in ([*own.values(), *others], [*others, *own.values()]):
        assert layer_files(files) == want


@pytest.mark.parametrize(
    "two",
    [
        ("layer3.sae.pt", "layer03.sae.pt"),
        ("layer3.sae.pt", "layer3.safetensors"),
        ("layer3.sae.pt", "layer3 (1).sae.pt"),
        ("layer3.safetensors", "sae_L3_latest.safetensors"),
        ("layer3.pt", "layer_3.pt"),
    ],
)
def test_two_files_that_claim_a_layer_are_refused_by_name(two):
    for files in (two, two[::-1]):
        with pytest.raises(ValueError, match="both claim layer 3: keep one") as caught:
            layer_files(["layer1.sae.pt", *files])
        assert all(name in str(caught.value) for name in two)


# ---- what a config says


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hook_point": "resid_post", "model_type": "topk_sae"},
        {"hook_name": "blocks.3.hook_resid_post", "architecture": "topk"},
        {"hook_point": "model.layers.3", "activation": "TopK"},
        {"architecture": "standard", "activation_fn_str": "topk", "normalize_activations": "none"},
        {"metadata": {"hook_name": "blocks.0.hook_resid_post"}, "architecture": "topk"},
        {"hook_point": "residual_stream", "rescale_acts_by_decoder_norm": False},
    ],
)
def test_a_topk_sae_of_the_residual_stream_is_read(config):
    refuse_other_sae(config, "config.json")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"hook_point": "mlp_out"}, "hook_point"),
        ({"hook_point": "resid_pre"}, "hook_point"),
        ({"hook_name": "blocks.3.hook_resid_mid"}, "hook_name"),
        ({"metadata": {"hook_name": "blocks.3.attn.hook_z"}}, "hook_name"),
        ({"architecture": "jumprelu"}, "architecture"),
        ({"architecture": "batchtopk"}, "architecture"),
        ({"architecture": "standard"}, "architecture"),
        ({"architecture": "gated", "activation": "topk"}, "architecture"),
        ({"activation_fn": "gelu"}, "activation_fn"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
        ({"reshape_activations": "hook_z"}, "reshape_activations"),
    ],
)
def test_another_kind_of_sae_is_refused_by_the_entry_that_says_so(config, key):
    with pytest.raises(ValueError, match=f"^config.json says {key} is ") as caught:
        refuse_other_sae(config, "config.json")
    assert "\n" not in str(caught.value)
