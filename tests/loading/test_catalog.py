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
