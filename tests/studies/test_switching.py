"""Switches of script on labelled strings, in the tiny world and as tokens."""

import pytest

import qs_helpers as qs
from qs_helpers.studies.switching import foreign_ids, foreign_token, switching
from qs_helpers.tiny import corpus, judge


@pytest.mark.parametrize(
    ("text", "language", "runs"),
    [
        ("他买soup。", "zh", ["soup"]),
        ("他买A。", "zh", []),  # one letter is a name or a grade
        ("日本語のテスト", "ja", []),
        ("日本語のテスト", "zh", ["のテスト"]),
        ("漢字", "ja", []),
        ("汉字", "zh", []),  # Han is shared
        ("他买 soup 和 bread。", "zh", ["soup", "bread"]),
        ("看 `code` 吧", "zh", []),
        ("看```\nfor x in y\n```吧", "zh", []),
        ("公式 $x+yz$ 和 \\(abc\\) 和 \\begin{align}ab\\end{align}", "zh", []),
        ("见 https://example.com/page?a=b 和 name.x@mail.org", "zh", []),
        ("１２３，！？ＡＢ", "zh", ["ＡＢ"]),  # full-width letters are letters
        ("，。！？（）「」", "ru", []),
        ("1234 5678", "ja", []),
        ("привет 你", "ru", ["你"]),
        ("the cook 买 bread", "en", ["买"]),
        ("l'été déjà", "fr", []),
        ("don't well-known", "zh", ["don't", "well-known"]),
        ("한국어", "zh", ["한국어"]),
        ("", "zh", []),
        ("...", "zh", []),
    ],
)
def test_switching_on_labelled_strings(text, language, runs):
    found = switching(text, language)
    assert [text[a:b] for a, b in found.runs] == runs
    assert found.any == bool(runs)
    assert found.onset == (text.index(runs[0]) if runs else None)


def test_shares_and_copies():
    assert switching("他买soup", "zh").share == pytest.approx(4 / 6)
    assert switching("...", "zh").share == 0
    assert not switching("他买iPhone。", "zh", prompt="我要iPhone").any
    with pytest.raises(ValueError, match="no scripts for 'xx'; choose one of en, fr"):
        switching("a", "xx")


def test_it_agrees_with_the_world_that_plants_the_slips():
    for lang in ("zh", "ja"):
        drawn = corpus.documents(80, "discovery", 0, ["story"], (lang,))
        for sentence in [s for d in drawn for s in judge.sentences(d.text)]:
            if judge.is_slip(sentence):
                assert switching(sentence, lang).any
            elif judge.produces(lang, sentence):
                assert not switching(sentence, lang).any


@pytest.fixture(scope="module")
def scope():
    return qs.load_scope("tiny")


def test_the_first_foreign_token(scope):
    text = "老师在学校读book。"
    at = foreign_token(scope, text, "zh")
    ids = scope.ids([text])[0]
    before = scope.tokenizer.decode(ids[:at])
    assert "b" not in before and scope.tokenizer.decode(ids[: at + 1]).endswith(("b", "bo", "book"))
    assert foreign_token(scope, "老师读书。", "zh") is None


def test_foreign_ids(scope):
    latin = set(foreign_ids(scope, ("Latin",)).tolist())
    assert not latin & set(scope.tokenizer.all_special_ids)
    assert set(scope.ids(["book the cook"])[0]) <= latin
    assert not set(scope.ids(["老师读书。123"])[0]) & latin
