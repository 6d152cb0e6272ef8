"""Switches of script on labelled strings, in the tiny world and as tokens."""

import numpy as np
import pytest
import torch

import qs_helpers as qs
from qs_helpers.studies.switching import (
    alike_places,
    foreign_ids,
    foreign_token,
    logit_mask,
    matched_set,
    switching,
)
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
        ("It costs $5 and 而且 it ships for $3 today.", "en", ["而且"]),
        ("价格$5 however 便宜 $3 元", "zh", ["however"]),
        ("从$5涨到but$6元", "zh", ["but"]),
        ("($5) 而且 ($6)", "en", ["而且"]),
        ("5$ 而且 3$", "en", ["而且"]),
        ("US$5 而且 US$6", "en", ["而且"]),
        ("$.50 而且 $.75", "en", ["而且"]),
        ("\\$a 而且 \\$b", "en", ["而且"]),
        ("当 $x = yz$ 时", "zh", []),
        ("当 $ \\alpha $ 时", "zh", []),
        ("$2xy$和$3yz$", "zh", []),
        ("See https://example.com/page而且 it works", "en", ["而且"]),
        ("See https://example.com而且 it works", "en", ["而且"]),
        ("See https://example.com/然后 it works", "en", ["然后"]),
        ("See https://zh.wikipedia.org/wiki/中文 for it", "en", []),
        ("See https://ru.wikipedia.org/wiki/Москва for it", "en", []),
        ("Write to me@example.com而且 wait", "en", ["而且"]),
        ("Write 请到me@example.com now", "en", ["请到"]),
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


def test_a_logit_mask_forbids_tokens_when_reading_and_leaves_no_trace(scope):
    texts, latin = ["老师读书。医生买鱼。", "the cook buys bread."], foreign_ids(scope, ("Latin",))
    before = qs.text_nats(scope, texts)
    with logit_mask(scope, latin):
        own, english = qs.text_nats(scope, texts)
    assert own < before[0] and english == np.inf  # what is forbidden is shared among the others
    with logit_mask(scope, None):
        assert (qs.text_nats(scope, texts) == before).all()
    with pytest.raises(RuntimeError), logit_mask(scope, latin):
        raise RuntimeError
    assert (qs.text_nats(scope, texts) == before).all()
    ids = scope.tokens(texts[0])["input_ids"]
    with logit_mask(scope, latin), torch.no_grad():
        assert scope.model(ids).logits[..., latin].isneginf().all()


def test_alike_places_come_after_the_same_tokens():
    others = [[1, 2, 3, 4, 5], [9, 2, 3, 8, 8, 8, 3, 7]]
    assert alike_places([[1, 2, 3, 6]], [3], others) == [(0, 3)]  # 1 2 3 before it
    assert alike_places([[0, 0, 0, 0, 0, 3, 6]], [6], others) == [(1, 7)]  # nearest to the sixth
    assert alike_places([[1, 2, 3, 6]] * 4, [3] * 4, others) == [(0, 3), (1, 3), (1, 7), None]
    assert alike_places([[1, 7, 6], [4, 6]], [2, 1], others) == [None, (0, 4)]
    assert alike_places([[4, 6], [1, 2, 3, 6]], [1, 3], others, lead=2) == [None, (0, 3)]
    assert alike_places([], [], others) == [] and alike_places([[1, 2]], [1], []) == [None]


def test_a_matched_set_fires_as_often_and_holds_nothing_twice():
    density = np.linspace(0, 1, 400).round(4)  # feature 0 is dead
    own = [0, 5, 6, 7, 200, 390]
    for seed in range(5):
        drawn = matched_set(density, own, seed)
        assert len(drawn) == len(own) == len({*drawn.tolist()} - {*own})
        assert np.abs(density[drawn] - density[own]).max() < 0.11
    assert (matched_set(density, own, 1) == matched_set(density, own, 1)).all()
    assert (matched_set(density, own, 1) != matched_set(density, own, 2)).any()
    few = np.array([0.1, 0.2, 0.3, 0.0, 0.0])
    assert matched_set(few, [0, 1]).tolist() == [2]
