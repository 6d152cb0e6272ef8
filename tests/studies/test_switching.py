"""Switches of script on labelled strings, in the tiny world and as tokens."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import qs_helpers as qs
from qs_helpers.studies.finetuning import usual_levels
from qs_helpers.studies.switching import (
    foreign_ids,
    logit_mask,
    matched_set,
    open_share,
    single_feature,
    switching,
    token_at,
    tongues,
)
from qs_helpers.tiny import corpus, judge

STRINGS = Path(__file__).with_name("slips.jsonl")


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
        ("１２３，！？ａｂ", "zh", ["ａｂ"]),  # full-width letters are letters
        ("１２３，！？ＡＢ", "zh", []),  # a capital: a name
        ("我用Python写 main.py，长5km", "zh", []),
        ("单词“apple”和（pear）", "zh", []),  # mentioned, not used
        ("他说“我买bread”", "zh", ["bread"]),
        ("Il pleut. It was raining all day today.", "fr", [" It was raining all day today"]),
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


def test_labelled_strings():
    """Labelled by hand before the detector was measured on them."""
    rows = [json.loads(line) for line in STRINGS.read_text("utf-8").splitlines()]
    right = [switching(row["text"], row["language"]).any == row["slip"] for row in rows]
    assert len(rows) >= 200 and np.mean(right) >= 0.97


def test_slips_into_one_script():
    text = "она читает book и 汉字"
    assert [text[a:b] for a, b in switching(text, "ru").runs] == ["book", "汉字"]
    assert [text[a:b] for a, b in switching(text, "ru", scripts=["Latin"]).runs] == ["book"]


def test_the_token_of_a_character(scope):
    text = "老师在学校读book。"
    at = token_at(scope, text, text.index("b"))
    ids = scope.ids([text])[0]
    before = scope.tokenizer.decode(ids[:at])
    assert "b" not in before and scope.tokenizer.decode(ids[: at + 1]).endswith(("b", "bo", "book"))


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


def test_slips_are_counted_by_the_language_of_their_words():
    asked = [SimpleNamespace(language="zh", text="他")] * 4
    texts = ["他 the dog eats bread with us", "他 le chien mange du pain avec nous", "他买鱼。", ""]
    assert tongues(texts, asked) == "1 in English, 1 in French"
    assert tongues([], []) == "0 in English, 0 in French"


def test_a_single_feature_is_judged_on_other_pairs_than_chose_it():
    rng = np.random.default_rng(0)
    values = list(rng.normal(size=(80, 6, 30)))  # 40 slips, then 40 matched places
    places, groups = [4] * 80, [str(i % 10) for i in range(80)]
    for i in range(40):
        values[i][4, 7] += 5  # at the place itself, feature 7 tells
    found = single_feature(values, places, 0, groups)
    assert found.value > 0.95 and found.n == 40
    assert 0.2 < single_feature(values, places, 1, groups).value < 0.8  # 30 were tried: no luck
    for i in range(0, 40, 2):
        values[i][3, 3] += 9  # only where it is chosen
    assert single_feature(values, places, 1, groups).value < 0.8


def test_a_gate_is_open_where_any_feature_is_above_its_usual_level(scope):
    texts = ["老师读书。医生买鱼。", "the cook buys bread."]
    signal = usual_levels(scope, texts, 3, [5, 9, 11])
    low = signal._replace(usual=(-1e9, *signal.usual[1:]))
    high = signal._replace(usual=(1e9,) * 3)
    assert open_share(scope, texts, low) == 1 and open_share(scope, texts, high) == 0
    assert 0 < open_share(scope, texts, signal) < 1
