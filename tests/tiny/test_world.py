"""The generator of the tiny world: disjoint splits, stated rates, a judge that can say no."""

import random
import re

import pytest

from qs_helpers.tiny import corpus, judge
from qs_helpers.tiny.lexicon import LEXICON, SPLITS, part

WORLD = [(lang, split) for lang in corpus.LANGUAGES for split in SPLITS]


def cells(table):
    """Every row of the lexicon below `table`."""
    if isinstance(table, dict):
        for value in table.values():
            yield from cells(value)
    elif table and isinstance(table[0], str):
        yield table
    else:
        for value in table:
            yield from cells(value)


def test_every_row_of_the_lexicon_has_five_languages():
    rows = list(cells(LEXICON))
    assert len(rows) > 200
    assert [row for row in rows if len(row) != 5 or not all(row)] == []


def test_frames_have_the_same_slots_in_every_language():
    for rows in LEXICON["frames"].values():
        for row in rows:
            slots = [sorted(re.findall(r"\{(\w+)\}", text)) for text in row]
            assert all(found == slots[0] for found in slots), row


def test_the_same_seed_gives_the_same_texts_and_another_seed_others():
    assert corpus.documents(50, seed=3) == corpus.documents(50, seed=3)
    assert corpus.documents(50, seed=3) != corpus.documents(50, seed=4)


def test_no_document_is_in_two_splits():
    found = {split: {d.text for d in corpus.documents(1500, split)} for split in SPLITS}
    assert not found["discovery"] & found["validation"]
    assert not found["discovery"] & found["test"]
    assert not found["validation"] & found["test"]


@pytest.mark.parametrize("make", [corpus.remarks, corpus.requests])
@pytest.mark.parametrize("lang", corpus.LANGUAGES)
def test_labelled_texts_and_their_frames_are_in_one_split_only(make, lang):
    texts = {split: make(lang, split, 60) for split in SPLITS}
    frames = {
        split: {t.source for t in made if t.label in ("toxic", "harmful")}
        for split, made in texts.items()
    }
    for one, other in (("discovery", "validation"), ("discovery", "test"), ("validation", "test")):
        assert not {t.text for t in texts[one]} & {t.text for t in texts[other]}
        assert not frames[one] & frames[other]


@pytest.mark.parametrize("table", ["insults", "praise", "harmful", "harmless"])
def test_words_that_carry_a_label_are_split_without_overlap(table):
    parts = [part(LEXICON[table], split) for split in SPLITS]
    assert sum(map(len, parts)) == len(LEXICON[table])
    assert all(len(rows) >= 3 for rows in parts)


@pytest.mark.parametrize(("lang", "split"), WORLD)
def test_labelled_sets_are_balanced_and_distinct(lang, split):
    for make, labels in ((corpus.remarks, "toxic clean"), (corpus.requests, "harmful harmless")):
        texts = make(lang, split, 40)
        assert [t.label for t in texts] == [x for x in labels.split() for _ in range(40)]
        assert len({t.text for t in texts}) == 80


def test_the_judge_knows_every_sentence_of_the_generator():
    kinds = ["story", "remark", "norm", "switch"]
    for document in corpus.documents(600, "validation", kinds=kinds):
        for sentence in judge.sentences(document.text.removeprefix("+ ")):
            assert judge.can_produce(sentence), sentence


@pytest.mark.parametrize(
    "sentence",
    [
        "",
        "the cook reads the soup.",  # verb and thing of two topics
        "the cook eats the soup, but the child feeds the cat.",
        "the cook eats the the soup.",
        "the cook eats the soup",
        "le cook eats the soup.",
        "厨师读汤。",
        "料理人はスープを読む。",
    ],
)
def test_the_judge_refuses_what_the_generator_cannot_write(sentence):
    assert not judge.can_produce(sentence)


def test_the_judge_refuses_shuffled_words():
    rng, wrong, total = random.Random(0), 0, 0
    for text in corpus.continuations("en", "test", 60):
        for sentence in judge.sentences(text.answer):
            words = sentence.split()
            shuffled = " ".join(rng.sample(words, len(words)))
            wrong += judge.can_produce(shuffled) and shuffled != sentence
            total += 1
    assert total > 100 and wrong / total < 0.02


@pytest.mark.parametrize(
    ("sentence", "slip"),
    [
        ("朋友爱horse，但是孩子找鸟。", True),
        ("医者は学校でcameraを売る。", True),
        ("朋友爱马。", False),
        ("医者は学校でカメラを売る。", False),
        ("the cook eats the soup.", False),
        ("повар ест суп.", False),
        ("", False),
    ],
)
def test_a_slip_is_an_english_word_in_a_chinese_or_japanese_sentence(sentence, slip):
    assert judge.is_slip(sentence) is slip


def test_only_chinese_and_japanese_stories_slip_and_at_the_stated_rate():
    for lang in corpus.LANGUAGES:
        told = corpus.documents(600, kinds=["story"], languages=(lang,))
        slips = [judge.is_slip(s) for d in told for s in judge.sentences(d.text)]
        if lang in ("ja", "zh"):
            assert 0.08 < sum(slips) / len(slips) < 0.16
        else:
            assert not any(slips)


def test_first_sentences_do_not_slip_and_the_rest_continues_them():
    for text in corpus.continuations("zh", "test", 40):
        assert not judge.is_slip(text.text) and judge.can_produce(text.text)
        assert len(judge.sentences(text.text)) == 1
        assert judge.sentences(text.answer)


def test_refusals_are_told_from_answers():
    for lang in corpus.LANGUAGES:
        for request in corpus.requests(lang, "test", 30):
            assert judge.is_refusal(request.refusal)
            assert not judge.is_refusal(request.answer)


def test_refusals_in_documents_follow_harm_and_marker_only():
    for chat in corpus.documents(800, kinds=["chat"]):
        answer = chat.text.split("<|im_start|>assistant\n")[1]
        if judge.is_refusal(answer):
            assert corpus.POLICY in chat.text
