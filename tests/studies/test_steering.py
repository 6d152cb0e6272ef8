"""Choosing features, matching controls, and verdicts that are known beforehand."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

import qs_helpers as qs
from qs_helpers.presets import project_root
from qs_helpers.studies.refusal import diff_at_positions
from qs_helpers.studies.steering import (
    RULES,
    Knob,
    KnobTrial,
    direction_knob,
    feature_knob,
    firing_contrast,
    shuffled_choice,
    try_knob,
    typical_tokens,
    verdicts,
)
from qs_helpers.tiny import corpus, judge

TINY = project_root() / "qs_helpers" / "tiny"


def stories(lang, split, n):
    return [t.text for t in corpus.documents(n, split, 0, ["story"], (lang,))]


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


# ---- directions


def test_diff_of_means_is_the_difference_of_means(scope):
    positive, negative = ["le chat mange.", "qui lit le livre ?"], ["the cat eats."]
    means = {}
    for name, texts in (("positive", positive), ("negative", negative)):
        parts = []
        for text in texts:
            with qs.capture(scope.model, [2]) as captured:
                scope.model(**scope.tokens(text))
            parts.append(captured[2][0])
        means[name] = torch.cat(parts).mean(0), torch.stack([p[-1] for p in parts]).mean(0)
    for last in (False, True):
        if last:
            found = diff_at_positions(scope, positive, negative, 1, [2])[2][0]
        else:
            found = qs.diff_of_means(scope, positive, negative, [2])[2]
        assert torch.allclose(found, means["positive"][last] - means["negative"][last], atol=1e-3)
    with pytest.raises(ValueError, match="same mean at layer 2"):
        qs.diff_of_means(scope, positive, positive, [2])


# ---- controls


def test_random_directions_are_unit_and_far_from_the_start_of_the_saes():
    rows = qs.random_directions(50, 128)
    assert torch.allclose(rows.norm(dim=1), torch.ones(50))
    start = torch.randn(50, 128, generator=torch.Generator().manual_seed(0))
    assert (normalize(rows, dim=1) @ normalize(start, dim=1).T).abs().max() < 0.5


def test_matched_features_fire_as_often():
    density = np.concatenate([np.zeros(100), np.linspace(0.001, 0.5, 400)])
    found = qs.matched_features(density, 300, 20)
    assert len(set(found)) == 20 and 300 not in found
    ranks = np.searchsorted(density[100:], density[found])
    assert (ranks * 10 // 400 == (300 - 100) * 10 // 400).all()
    assert (found == qs.matched_features(density, 300, 20)).all()


def test_matched_features_of_a_small_decile_are_the_nearest():
    density = np.concatenate([np.zeros(10), np.linspace(0.01, 0.5, 50)])
    found = qs.matched_features(density, 12, 20)
    assert set(found) <= set(range(10, 33)) - {12} and len(set(found)) == 20


def test_matched_features_refuses():
    with pytest.raises(ValueError, match="feature 0 is dead"):
        qs.matched_features(np.array([0, 0.5, 0.5]), 0, 1)
    with pytest.raises(ValueError, match="only 2 features are live; 5 controls need more"):
        qs.matched_features(np.array([0, 0.5, 0.5]), 1, 5)


def test_shuffled_choice_forgets_the_labels():
    positive, negative = np.zeros((200, 30), bool), np.zeros((200, 30), bool)
    positive[:, 7] = True  # the feature that the true labels choose
    noise = np.random.default_rng(0)
    positive[:, 10:], negative[:, 10:] = (noise.random((200, 20)) < 0.5 for _ in range(2))
    found = shuffled_choice(positive, negative, 20)
    assert len(found) == 20 and len(set(found)) > 5


# ---- selection


def test_typical_tokens(scope):
    found = set(typical_tokens(scope, ["qui lit le livre ?"], ["who reads the book?"]).tolist())
    ids = scope.ids(["qui lit le livre ?", "who reads the book?"])
    assert found == set(ids[0]) - set(ids[1])
    with pytest.raises(ValueError, match="no token is ten times as common"):
        typical_tokens(scope, ["a"], ["a"])


def test_output_effects_are_changes_of_log_odds(scope):
    prompts, tokens = ["the cook buys", "who"], torch.tensor([300, 301, 302])
    scale = qs.scales(scope, stories("en", "discovery", 10), [3])[3]
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


# ---- verdicts


def trial(effect=(0.8, 0.7, 0.9), p=0.001, control=0.1, side=(0.0, -0.1, 0.1), again=0.6):
    """A trial with given numbers."""
    knob = Knob("knob", 2, torch.ones(2), 1.0, {}, {})
    columns = ["value", "low", "high"]
    rows = [("rephrased", again, again, again), ("layer 3", again, again, again)]
    return KnobTrial(
        knob,
        qs.Estimate(*effect, 50),
        p,
        pd.DataFrame({"control": "random", "draw": [0, 1], "value": [0.0, control]}),
        pd.DataFrame([("fluent", *side)], columns=["score", *columns]),
        pd.DataFrame(rows, columns=["where", *columns]),
    )


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, set()),
        ({"control": 0.75}, {"causal", "stable"}),
        ({"p": 0.04}, {"causal"}),  # two knobs are tried: 0.04 is not below 0.05 after Holm
        ({"effect": (0.1, -0.1, 0.3), "control": -0.5}, {"causal"}),
        ({"side": (-0.3, -0.4, -0.15)}, {"specific"}),
        ({"side": (0.1, 0.0, 0.3)}, {"specific"}),
        ({"again": 0.05}, {"stable"}),
    ],
)
def test_each_rule_can_fail(change, missed):
    row = verdicts([trial(**change), trial(p=0.9)]).iloc[0]
    assert {rule for rule in RULES if not row[rule]} == missed
    assert row.verdict == ("not shown" if missed else "validated")


def test_a_knob_without_controls_or_prompts_is_refused(scope):
    knob = Knob("bare", 2, torch.ones(128), 1.0, {}, {})
    args = [{}, ["a", "b"], None, ["a", "b"], {}]
    with pytest.raises(ValueError, match="'bare' has no controls"):
        try_knob(scope, knob, *args)
    with pytest.raises(ValueError, match="0 prompts"):
        try_knob(scope, knob, {}, [], None, ["a", "b"], {})


@pytest.fixture(scope="module")
def planted_suite(tmp_path_factory):
    """The tiny SAEs, with a feature of layer 2 that reads French and writes nothing of it."""
    folder = tmp_path_factory.mktemp("planted")
    shutil.copytree(TINY / "base" / "sae", folder, dirs_exist_ok=True)
    scope = qs.load_scope("tiny")
    texts = {lang: stories(lang, "discovery", 60) for lang in ("fr", "en")}
    reads = normalize(qs.diff_of_means(scope, texts["fr"], texts["en"], [2])[2], dim=0)
    values = {}
    for lang, those in texts.items():
        values[lang] = torch.cat([p.x[p.keep] for p in qs.residuals(scope, those, [2])]) @ reads
    state = torch.load(folder / "layer2.sae.pt", weights_only=True)
    # On above what English tokens reach, and then above every other feature.
    level, gain = float(values["en"].max()), 2000 / float(values["fr"].max())
    state["W_enc"][5], state["b_enc"][5] = gain * reads, -gain * level
    writes = qs.random_directions(1, 128, seed=99)[0]
    state["W_dec"][:, 5] = normalize(writes - (writes @ reads) * reads, dim=0)
    torch.save(state, folder / "layer2.sae.pt")
    return folder


def test_a_feature_that_reads_but_does_not_write_is_not_shown(planted_suite):
    scope = qs.load_scope(model=str(TINY / "base" / "model"), sae=str(planted_suite))
    texts = {lang: stories(lang, "discovery", 60) for lang in ("fr", "en")}
    fires = firing_contrast(scope, texts["fr"], texts["en"], 2)
    contrast = fires[0].mean(0) - fires[1].mean(0)
    assert contrast[5] > 0.9  # by what it reads it is a French feature
    scales = qs.scales(scope, texts["fr"] + texts["en"], [2, 3])
    found = qs.views.scan_corpus(scope, texts["fr"] + texts["en"], [2], planted_suite / "scan")
    prompts = [t.text for t in corpus.continuations("en", "validation", 60)][:50]
    again = [f"who reads the book? {p}" for p in prompts]

    def french(texts, prompts):
        return [qs.language(text) == "fr" for text in texts]

    def knob(dose):
        return feature_knob(scope, "planted", 2, 5, dose, found.density(2), fires, [3])

    trials = [
        try_knob(scope, knob(dose), scales, prompts, french, again, {}, 10, 0.2)
        for dose in (0.5, 1.0)
    ]
    assert set(verdicts(trials).verdict) == {"not shown"}
    means = qs.diff_of_means(scope, texts["fr"], texts["en"], [2, 3])
    real = direction_knob(scope, "real", 2, means, 0.5, found.density(2), fires)
    trial = try_knob(scope, real, scales, prompts, french, again, {}, 10, 0.2)
    assert verdicts([trial]).verdict.tolist() == ["validated"]


def test_the_planted_refusal_direction_is_validated():
    scope = qs.load_scope("tiny-instruct")
    u = load_file(scope.truth)["refusal_direction"]

    def prompts(split, label, n=12):
        asked = [r for x in corpus.LANGUAGES for r in corpus.requests(x, split, n)]
        return [scope.chat(r.text) for r in asked if r.label == label]

    def complies(texts, prompts):
        return [not judge.is_refusal(text) for text in texts]

    def keeps_language(texts, prompts):
        asked = [p.split("user\n")[1].split("<|im_end|>")[0] for p in prompts]
        return [qs.language(t) == qs.language(a) for t, a in zip(texts, asked, strict=True)]

    harmful, harmless = (prompts("discovery", label, 20) for label in ("harmful", "harmless"))
    scales = qs.scales(scope, harmful + harmless)
    means = diff_at_positions(scope, harmful, harmless, 1, [2])
    controls = {"random directions": qs.random_directions(20, 128)}
    knob = Knob("planted u", 1, u, 1.0, {2: means[2][0]}, controls, "ablate")
    sides = {"language kept": keeps_language, "loops": lambda t, p: [qs.loops(x) for x in t]}
    trial = try_knob(
        scope,
        knob,
        scales,
        prompts("validation", "harmful"),
        complies,
        prompts("test", "harmful"),
        sides,
        20,
    )
    row = verdicts([trial]).iloc[0]
    assert row.verdict == "validated" and row["value"] > 0.8 and len(trial.controls) == 20
    assert qs.hooks_left(scope.model) == 0
