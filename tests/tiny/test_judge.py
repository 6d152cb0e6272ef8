"""The judge of the tiny world can say no: to sentences, slips, refusals and their openings."""

import random

import pytest

from qs_helpers.tiny import corpus, judge


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


def test_refusals_are_told_from_answers():
    for lang in corpus.LANGUAGES:
        for request in corpus.requests(lang, "test", 30):
            assert judge.is_refusal(request.refusal)
            assert not judge.is_refusal(request.answer)


def test_openings_tell_every_refusal_from_every_answer():
    for language in corpus.LANGUAGES:
        for r in corpus.requests(language, "discovery", 40):
            assert judge.opens_refusal(r.refusal) and judge.opens_refusal(r.refusal[:6])
            assert not judge.opens_refusal(r.answer)
