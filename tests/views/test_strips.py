"""Views keep every number and their meaning where styles and scripts are stripped."""

import re

import numpy as np
import pytest
from nbconvert.filters.strings import clean_html

import qs_helpers as qs
from qs_helpers.evidence.files import short
from qs_helpers.tiny import corpus
from qs_helpers.views.html import FULL, TEXT, shade

TEXT_ = "my neighbor plants the flowers. you are a fool!"
HARD = {
    "one token": "a",
    "right-to-left": "שלום עולם",
    "emoji with joiners": "a 👩‍👩‍👧‍👦 family",
    "control characters": "a\x00\x1b[31m\u202eb",
    "script": "<script>alert('x')</script> & \"quotes\"",
    "chinese": "你是傻瓜！",
    "1,000 tokens": "the cook buys the bread. " * 140,
}


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


@pytest.fixture(scope="module")
def found(scope, tmp_path_factory):
    texts = [d.text for d in corpus.documents(80, "discovery")]
    return qs.views.scan_corpus(scope, texts, folder=tmp_path_factory.mktemp("cache"))


def strongest(found, layer=3):
    return int(found.stats(layer)["fired"].argmax())


def all_views(scope, found, text=TEXT_):
    feature = strongest(found)
    yield qs.views.token_strip(scope, text, 3, feature)
    yield qs.views.layer_map(scope, text)
    yield qs.views.across_layers(scope, text, 3, feature)
    yield qs.views.compare_texts(scope, text, "le cuisinier achète le pain.")
    yield qs.views.feature_card(scope, found, 3, feature)


def words(html):
    """What a reader sees or hovers over, without tags."""
    hints = " ".join(re.findall(r'title="([^"]*)"', html))
    return re.sub(r"<[^>]*>", " ", html) + hints


@pytest.mark.parametrize("number", range(5))
def test_views_survive_the_sanitiser(scope, found, number):
    view = list(all_views(scope, found))[number]
    clean = clean_html(view.to_html())
    assert clean.count("&lt;") == view.to_html().count("&lt;")  # no tag was shown as text
    assert "background" not in clean
    values = view.data.select_dtypes("number")
    name = "difference" if "difference" in values else "value"
    for value in values[name][values[name] != 0]:
        # Values are shown short, differences with a sign and two places.
        shown = f"{value:+.2f}" if name == "difference" else short(float(value))
        assert shown in words(clean), value


@pytest.mark.parametrize("number", range(5))
def test_views_load_nothing_and_have_words(scope, found, number, tmp_path):
    view = list(all_views(scope, found))[number]
    html = view.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8").count(html) == 1
    assert not re.search(r"<(script|link|img|iframe|style|table)|@import|url\(", html)
    assert set(re.findall(r"<(\w+)", html)) <= set("div span abbr b pre a".split())
    bundle = view._repr_mimebundle_()
    assert bundle["text/html"] == html and bundle["text/plain"] == view.alt
    assert len(view.alt) > 40 and "nan" not in view.alt
    assert "a test bed, not a finding about Qwen" in html


@pytest.mark.parametrize("text", HARD.values(), ids=HARD.keys())
def test_hard_texts_are_shown_whole(scope, text):
    view = qs.views.token_strip(scope, text, 2, 7)
    assert "".join(view.data.token) == text
    html = view.to_html()
    assert "<script" not in html and "\x00" not in html and "\u202e" not in html
    assert clean_html(html).count("&lt;") == html.count("&lt;")
    assert len(qs.views.layer_map(scope, text, [2]).data) == len(view.data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "text 0 is ''"),
        ("the cook buys the bread. " * 2000, "text 0 has .* tokens; split it"),
        ("half \udc80", "half a character"),
    ],
)
def test_texts_that_cannot_be_shown_are_refused_by_name(scope, text, message):
    with pytest.raises(ValueError, match=message):
        qs.views.token_strip(scope, text, 2, 7)


def test_a_feature_that_never_fires_is_called_dead(scope, found):
    dead = int(np.flatnonzero(found.stats(0)["fired"] == 0)[0])
    card = qs.views.feature_card(scope, found, 0, dead)
    assert "dead: it fires nowhere in this corpus" in card.to_html()
    assert len(card.data) == 0 and "0 sinks" in card.alt
    strip = qs.views.token_strip(scope, TEXT_, 0, dead)
    assert "does not fire on any of" in strip.alt


def test_what_does_not_exist_is_named(scope, found):
    with pytest.raises(ValueError, match="feature -1 is out of range"):
        qs.views.token_strip(scope, TEXT_, 0, -1)
    with pytest.raises(ValueError, match="layer 6 is out of range"):
        qs.views.token_strip(scope, TEXT_, 6, 0)


def test_a_layer_without_a_file_is_named(tmp_path):
    from suites import write_model, write_suite

    model = write_model(tmp_path / "model")
    sae = write_suite(tmp_path / "sae", layers=[0, 2])
    scope = qs.load_scope(model=model, sae=sae)
    with pytest.raises(FileNotFoundError, match="has no SAE file for layer 1; it has layers 0, 2"):
        qs.views.token_strip(scope, "a b", 1, 0)


def test_the_strip_shows_what_encode_computes(scope):
    feature = int(qs.views.layer_map(scope, TEXT_, [3]).data.feature.max())
    with qs.capture(scope.model, [3]) as residuals:
        scope.model(**scope.tokens(TEXT_))
    acts = scope.sae(3).encode(residuals[3][0])
    expected = (acts.values * (acts.indices == feature)).amax(-1)
    view = qs.views.token_strip(scope, TEXT_, 3, feature)
    for row in view.data.itertuples():
        assert row.value == pytest.approx(float(expected[row.start]), rel=1e-4)
    peak = view.data.loc[view.data.value.idxmax()]
    assert f"<b>{peak.shown}</b>" in view.to_html()


def test_text_on_colour_keeps_its_contrast():
    def luminance(rgb):
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    dark = luminance([int(TEXT[i : i + 2], 16) for i in (1, 3, 5)])
    for share in (-1, 0, 0.3, 1, 7):
        rgb = [int(n) for n in re.search(r"rgb\((\d+),(\d+),(\d+)\)", shade(share)).groups()]
        assert (luminance(rgb) + 0.05) / (dark + 0.05) >= 4.5
    assert f"rgb({','.join(map(str, FULL))})" in shade(1)


def test_badges_name_dense_register_and_foreign(scope, found, monkeypatch):
    feature = strongest(found)
    monkeypatch.setattr(found, "density", lambda layer: np.full(scope.d_sae, 0.2))
    sample = found.stats(3)["sample"]
    sample["position"][sample["feature"] == feature] = 0
    monkeypatch.setattr(scope, "suite_note", lambda: "its SAEs were trained on A, not on B")
    notes = qs.views.badges(scope, found, 3, feature)
    assert notes == [
        "dense: it fires on 20% of the tokens",
        "register feature: 100% of its firings are at the first token of a text",
        "its SAEs were trained on A, not on B",
    ]


def test_a_base_suite_on_another_model_is_told(scope):
    from qs_helpers.loading.catalog import TINY

    mixed = qs.load_scope(model=TINY["tiny-instruct"] / "model", sae=TINY["tiny"] / "sae")
    assert "trained on base, not on instruct" in mixed.suite_note()
    assert scope.suite_note() == qs.load_scope("tiny-instruct").suite_note() == ""


def test_the_logit_lens_is_the_final_norm_and_the_output_matrix(scope):
    lens = qs.views.logit_lens(scope, 5, 11, n=4)
    x = scope.sae(5).direction(11)[0]
    model = scope.model
    hidden = x / (x.square().mean() + model.config.rms_norm_eps).sqrt() * model.model.norm.weight
    logits = model.lm_head.weight @ hidden
    expected = (logits - logits.mean()).topk(4).values.tolist()
    assert lens[lens.side == "promoted"].logit.tolist() == pytest.approx(expected, rel=1e-4)
    assert lens[lens.side == "suppressed"].logit.is_monotonic_increasing


def test_labels_are_kept_and_shown(scope, found, tmp_path, monkeypatch):
    monkeypatch.setenv("QS_LABELS", str(tmp_path / "labels.jsonl"))
    qs.views.label(scope, 3, 4, "first guess")
    qs.views.label(scope, 3, 4, "<b>insult</b>")
    assert qs.views.read_labels(scope) == {(3, 4): "<b>insult</b>"}
    assert qs.views.read_labels(qs.load_scope("tiny-sft")) == {}
    assert "“&lt;b&gt;insult&lt;/b&gt;”" in qs.views.token_strip(scope, TEXT_, 3, 4).to_html()
    assert "“<b>insult</b>”" in qs.views.feature_card(scope, found, 3, 4).alt
    qs.views.label(scope, 3, 4, "")
    assert qs.views.read_labels(scope) == {}
    with pytest.raises(ValueError, match="layer 8, feature 4 is not in"):
        qs.views.label(scope, 8, 4, "x")
    (tmp_path / "labels.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 of labels.jsonl is no label"):
        qs.views.read_labels(scope)
