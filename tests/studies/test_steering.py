"""What an edit does, what texts are worth, choosing features, and effects known beforehand."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from suites import begun
from torch.nn.functional import normalize

import qs_helpers as qs
from qs_helpers.presets import project_root
from qs_helpers.studies.refusal import diff_at_positions
from qs_helpers.studies.steering import (
    Knob,
    direction_knob,
    distinct_n,
    dose_grid,
    feature_knob,
    firing_contrast,
    fluent,
    half_remarks,
    harmonic_mean,
    remark_words,
    report_edit,
    sentences_with,
    shuffled_choice,
    try_knob,
    typical_tokens,
    usual_nats,
)
from qs_helpers.texts import Text, load_texts
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
    assert report.edited.groups == len(TEXTS)
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
    assert sentences_with("Soup is good. a cook.", "soup") == 1 / 2  # a str is one word
    assert sentences_with("Soup is good. a cook.", []) == 0
    assert sentences_with("Soup is good. a cook.", {"soup", ""}) == 1 / 2
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


# ---- remarks that can end either way


def remark(text, label="toxic", group="", language="en"):
    return Text(text, language, label, group, "test")


REMARKS = [
    remark("you are a fool!", group="you are|a fool"),
    remark("you are a rat!", group="you are|a rat"),
    remark("a rat reads.", group="first|a rat"),  # begins with the word
    remark("he said no such thing", group="said|a worm"),  # the word is not in the text
    remark("nobody asked you", group="text/123"),
    remark("you are a star!", "clean", "you are|a star"),
    remark("he drew a rat.", "clean", "he drew|a rat"),  # harmlessly: not a word of praise
    remark("你是白痴！", group="you are|白痴", language="zh"),
    remark("你是英雄！", "clean", "you are|英雄", "zh"),
    remark("tu es un sot !", group="you are|un sot", language="fr"),  # French has no praise here
]


def test_words_of_remarks_are_those_that_stand_in_their_texts():
    assert remark_words(REMARKS) == {
        "toxic": {"en": ["a fool", "a rat"], "zh": ["白痴"], "fr": ["un sot"]},
        "clean": {"en": ["a star"], "zh": ["英雄"]},
    }


def test_half_remarks_end_before_the_word():
    found = half_remarks(REMARKS, remark_words(REMARKS), 10)
    assert {half.head: half.group for half in found} == {"you are": "you are", "你是": "you are"}
    by_head = {half.head: half for half in found}
    assert by_head["你是"][2:] == ("白痴", "英雄")  # no space where the remark has none
    assert by_head["you are"].toxic in (" a fool", " a rat")
    assert by_head["you are"].clean == " a star"
    assert len(half_remarks(REMARKS, remark_words(REMARKS), 1)) == 1
    assert half_remarks([remark("fool")], {"toxic": {}, "clean": {}}, 5) == []


def test_remarks_of_the_micro_world_have_halves():
    remarks = load_texts("tiny", "remarks", ("en", "zh"), {"test": 40})
    found = half_remarks(remarks, remark_words(remarks), 20)
    assert len(found) == 20 == len({half.head for half in found})
    frames = {remark.group.partition("|")[0] for remark in remarks}
    groups = {half.group for half in found}
    assert groups <= frames and len(groups) >= 8  # enough for a verdict


# ---- an edit beside its controls


def test_an_edit_without_null_draws_or_prompts_is_refused(scope):
    knob = Knob("bare", 2, torch.ones(128), 1.0, {}, torch.empty(0, 128))
    args = [None, ["a", "b"], None]
    with pytest.raises(ValueError, match="'bare' has no null draws"):
        try_knob(scope, knob, {}, ["a", "b"], *args)
    with pytest.raises(ValueError, match="0 prompts, 2 rephrased"):
        try_knob(scope, knob, {}, [], *args)


def test_null_draws_keep_their_places(scope):
    first, second = qs.random_directions(2, 128)
    scales = qs.scales(scope, TEXTS, [2])
    matched = {"feature 7": second}
    knob = Knob("two", 2, first, 1.0, {}, torch.stack([second, first]), matched)

    def length(texts, prompts):
        return [len(text) for text in texts]

    made = try_knob(scope, knob, scales, PROMPTS[:4], length, PROMPTS[:4], length, max_new_tokens=6)
    assert made.nulls.shape == (2, 4) and made.nulls[0].tolist() != made.nulls[1].tolist()
    assert made.nulls[1].tolist() == made.texts.after.tolist() == made.texts.rephrased.tolist()
    assert made.matched == {"feature 7": made.nulls[0].mean()}


def reaches(made, groups=None):
    """Whether an edit is first among its null draws, and beyond their mean."""
    null = qs.against(made.texts.after, made.nulls, groups=groups)
    return null.difference.low > 0 and null.value > null.draws.max()


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

    def kept(texts, prompts):
        return [not qs.loops(text) for text in texts]

    options = {"max_new_tokens": 10, "temperature": 0.2}
    for dose in (0.5, 1.0):
        about = ("planted", 2, 5, dose, found.density(2), fires, [3], 19)
        knob = feature_knob(scope, *about)
        made = try_knob(scope, knob, scales, prompts, french, again, kept, **options)
        assert not reaches(made) and len(made.matched) >= 10 and "layer 3" in made.texts
    means = qs.diff_of_means(scope, texts["fr"], texts["en"], [2, 3])
    knob = direction_knob("real", 2, means, 0.5, 19)
    made = try_knob(scope, knob, scales, prompts, french, again, kept, **options)
    assert reaches(made) and made.texts["layer 3"].mean() > 0.8
    assert made.texts["kept"].mean() > 0.8 and made.texts.rephrased.mean() > 0.8


def test_a_feature_that_is_silent_in_a_small_corpus_is_matched_by_shuffles_only(scope):
    fires = firing_contrast(scope, TEXTS[:2], TEXTS[2:], 2)
    silent = np.zeros(scope.d_sae)
    knob = feature_knob(scope, "some", 2, 5, 0.5, silent, fires, [3], 19)
    by_shuffles = {int(f) for f in shuffled_choice(*fires, 10, 0)} - {5}
    assert set(knob.matched) == {f"feature {f}" for f in by_shuffles} and list(knob.neighbours) == [
        3
    ]
    assert len(knob.nulls) == 19


def test_taking_out_the_planted_refusal_direction_beats_random_ones():
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
    nulls = qs.random_directions(20, 128)
    knob = Knob("planted u", 1, u, 1.0, {2: means[2][0]}, nulls, how="ablate")
    asked = prompts("validation", "harmful")
    again = prompts("test", "harmful")[: len(asked)]
    made = try_knob(scope, knob, scales, asked, complies, again, keeps_language, max_new_tokens=20)
    assert reaches(made) and made.texts.after.mean() - made.texts.before.mean() > 0.8
    assert made.nulls.shape == (20, len(asked))
    assert qs.hooks_left(scope.model) == 0


@pytest.mark.parametrize("tokens", [0, 1, 2])
def test_texts_are_held_against_real_ones_as_they_are_scored(scope, tokens):
    scope = begun(scope, tokens)
    real = [t.text.strip() for t in corpus.documents(20, "validation", 0, ["story"], ("en",))]
    for text in [text for text in real if not qs.loops(text)][:5]:
        n = len(scope.ids([text])[0])
        limits = usual_nats(scope, [text], n)
        assert len(limits) == n + 1 and np.isnan(limits[: max(2, tokens + 1)]).all()
        assert limits[n] == pytest.approx(qs.text_nats(scope, [text])[0], abs=1e-5)
        limits = np.where(np.arange(n + 1) == n, limits + 1e-3, -1.0)
        assert fluent(scope, [text], limits).all(), "held against the entry of its own length"
