"""Views keep every number and their meaning where styles and scripts are stripped."""

import re

import pytest
from nbconvert.filters.strings import clean_html
from suites import begun

import qs_helpers as qs
from qs_helpers.evidence.files import short

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


@pytest.mark.parametrize(
    "name",
    ["one\u2028two", "three\x85four", "a\u2029b", "a\nb", "a\rb", "\x0b\x1c", "名前 🙂", '"\\'],
)
def test_a_label_reads_as_it_was_written_and_spoils_no_other(scope, tmp_path, monkeypatch, name):
    monkeypatch.setenv("QS_LABELS", str(tmp_path / "labels.jsonl"))
    qs.views.label(scope, 2, 5, name)
    qs.views.label(scope, 2, 6, "other")
    assert qs.views.read_labels(scope) == {(2, 5): name, (2, 6): "other"}


@pytest.mark.parametrize(
    "line",
    [b"{}", b"not", b"[1]", b"\xff\xfe", b'{"scope": "tiny", "layer": 3, "feature": 1, "label": 7}']
    + [b'{"scope": "tiny", "layer": 3, "feature": 1, "label": "\\ud800"}', b"[" * 100_000]
    + [b'{"scope": "tiny", "layer": Infinity, "feature": 1, "label": "x"}'],
)
def test_a_bad_line_of_labels_is_named_and_locks_nothing(scope, tmp_path, monkeypatch, line):
    path = tmp_path / "labels.jsonl"
    monkeypatch.setenv("QS_LABELS", str(path))
    path.write_bytes(b"\xef\xbb\xbf\n" + line)  # by an editor: a mark before, no end of line behind
    qs.views.label(scope, 3, 4, "kept")
    with pytest.warns(UserWarning, match="line 2 of labels.jsonl is no label, and is left out"):
        assert qs.views.read_labels(scope) == {(3, 4): "kept"}


@pytest.mark.parametrize("name", [None, 3, float("nan"), "half \ud83d"])
def test_a_label_is_a_text(scope, tmp_path, monkeypatch, name):
    monkeypatch.setenv("QS_LABELS", str(tmp_path / "labels.jsonl"))
    with pytest.raises(ValueError, match="give a text of whole characters"):
        qs.views.label(scope, 2, 5, name)
    assert qs.views.read_labels(scope) == {}


def test_what_the_tokenizer_puts_before_a_text_is_marked_and_shown_as_0(scope, found):
    view = qs.views.token_strip(begun(scope), TEXT_, 3, strongest(found))
    assert view.data.sink[0] and view.data.value[0] == 0 and not view.data.sink[1:].all()
