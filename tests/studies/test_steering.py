"""What an edit does, what texts are worth, choosing features, and verdicts known beforehand."""

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
    distinct_n,
    dose_grid,
    feature_knob,
    firing_contrast,
    fluent,
    harmonic_mean,
    report_edit,
    sentences_with,
    shuffled_choice,
    try_knob,
    typical_tokens,
    usual_nats,
    verdicts,
)
from qs_helpers.tiny import corpus, judge

TINY = project_root() / "qs_helpers" / "tiny"
TEXTS = ["the cook buys the bread.", "le chat mange la soupe.", "что это?", "a b c d e f g"]
PROMPTS = [t.text for t in corpus.continuations("en", "validation", 20)][:16]


def stories(lang, split, n):
    return [t.text for t in corpus.documents(n, split, 0, ["story"], (lang,))]


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


# ---- what an edit does


def test_the_report_says_what_an_edit_did(scope):
    layer, scale = 2, qs.scales(scope, TEXTS, [2])[2]
    sae = scope.sae(layer)
    parts = list(qs.activations(scope, TEXTS, [layer]))
    feature = int(parts[0].acts.indices.flatten().mode().values)
    z = (parts[0].acts.values * (parts[0].acts.indices == feature)).sum(-1)
    report = report_edit(
        scope, TEXTS, layer, qs.change_features(sae, feature, "zero", scale), feature
    )
    assert report.edited.value == pytest.approx((z > 0).float().mean().item())
    assert report.edited.n == len(TEXTS)
    assert report.before[0] == pytest.approx(z[z > 0].mean().item(), rel=1e-5)
    assert report.after[0] < report.before[0]
    step = report_edit(scope, TEXTS, layer, qs.add(torch.ones(128), 0.5, scale))
    assert step.edited.value == 1.0 and 0.2 < step.size.value < 1.0
    with pytest.raises(ValueError, match="changes no token of these 4 texts"):
        report_edit(scope, TEXTS, layer, lambda x: x)


def test_a_dose_grid_has_a_row_for_each_layer_dose_and_prompt(scope):
    scale = qs.scales(scope, PROMPTS, [3])[3]
    v = qs.random_directions(1, 128)[0]
    scores = {"length": lambda texts: [len(text) for text in texts]}
    grid = dose_grid(scope, PROMPTS[:4], {3: scale}, {3: v}, [-1.0, 0.0, 1.0], scores)
    assert list(grid.columns) == ["layer", "dose", "prompt", "text", "length"]
    assert len(grid) == 12 and (grid.length == grid.text.str.len()).all()
    assert grid[grid.dose == 0].text.tolist() == qs.generate(scope, PROMPTS[:4])


# ---- measures of texts


def test_distinct_ngrams():
    assert distinct_n("a b a b a b", 2) == 2 / 5
    assert distinct_n("a", 3) == 1 and distinct_n("", 4) == 1
    assert distinct_n("你好你好你好", 2) == 2 / 5  # characters where there are no spaces


def test_sentences_with():
    words = ["soup", "汤"]
    assert sentences_with("Soup is good. the soupy cook. 谁买汤？", words) == pytest.approx(2 / 3)
    assert sentences_with("", words) == 0 and sentences_with("...", words) == 0


def test_harmonic_mean():
    assert harmonic_mean(1, 1) == 1 and harmonic_mean(1, 0) == 0
    assert harmonic_mean(0.5, 1) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="from 0 to 1"):
        harmonic_mean(1.2, 1)


def test_fluent_texts_are_like_real_ones_and_do_not_loop(scope):
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
    with pytest.raises(ValueError, match="none of 1 texts has 50 tokens"):
        usual_nats(scope, ["short"], 50)


# ---- selection


def test_shuffled_choice_forgets_the_labels():
    positive, negative = np.zeros((200, 30), bool), np.zeros((200, 30), bool)
    positive[:, 7] = True  # the feature that the true labels choose
    noise = np.random.default_rng(0)
    positive[:, 10:], negative[:, 10:] = (noise.random((200, 20)) < 0.5 for _ in range(2))
    found = shuffled_choice(positive, negative, 20)
    assert len(found) == 20 and len(set(found)) > 5


def test_typical_tokens(scope):
    found = set(typical_tokens(scope, ["qui lit le livre ?"], ["who reads the book?"]).tolist())
    ids = scope.ids(["qui lit le livre ?", "who reads the book?"])
    assert found == set(ids[0]) - set(ids[1])
    with pytest.raises(ValueError, match="no token is ten times as common"):
        typical_tokens(scope, ["a"], ["a"])


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
