"""Texts of the tiny world: fixed by their seed, in one split only, balanced and distinct."""

import pytest

from qs_helpers.tiny import corpus, judge
from qs_helpers.tiny.lexicon import SPLITS
from qs_helpers.tiny.world import SKILLS

WORLD = [(lang, split) for lang in corpus.LANGUAGES for split in SPLITS]


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


@pytest.mark.parametrize(("lang", "split"), WORLD)
def test_labelled_sets_are_balanced_and_distinct(lang, split):
    for make, labels in ((corpus.remarks, "toxic clean"), (corpus.requests, "harmful harmless")):
        texts = make(lang, split, 40)
        assert [t.label for t in texts] == [x for x in labels.split() for _ in range(40)]
        assert len({t.text for t in texts}) == 80


def test_first_sentences_do_not_slip_and_the_rest_continues_them():
    for text in corpus.continuations("zh", "test", 40):
        assert not judge.is_slip(text.text) and judge.can_produce(text.text)
        assert len(judge.sentences(text.text)) == 1
        assert judge.sentences(text.answer)


@pytest.mark.parametrize("lang", corpus.LANGUAGES)
def test_openings_of_a_split_have_frames_of_their_own(lang):
    frames = {s: {t.source for t in corpus.continuations(lang, s, 120)} for s in SPLITS}
    assert [len(frames[s]) for s in SPLITS] == [9, 5, 10]
    assert not frames["discovery"] & frames["test"] and not frames["validation"] & frames["test"]


def test_small_talk_is_split_by_row_in_documents_too():
    rows = {s: {t.source for t in corpus.small_talk("fr", s)} for s in SPLITS}
    assert [len(rows[s]) for s in SPLITS] == [9, 5, 10]
    for split in SPLITS:
        chats = corpus.documents(600, split, kinds=["chat"])
        assert {t.source for t in chats if "greet" in t.source} <= rows[split]


def test_requests_are_of_six_categories_and_twins_share_theirs():
    found = {t.category for t in corpus.requests("ja", "test", 60)}
    assert len(found) == 6
    for bad, good in corpus.request_twins("en", "test", 40):
        assert bad.category == good.category and bad.source == good.source
        assert bad.text.replace(bad.word, "") == good.text.replace(good.word, "")


def test_what_is_harmless_is_of_every_kind_and_of_a_hundred_groups():
    found = [t for lang in corpus.LANGUAGES for t in corpus.harmless(lang, "test", 40)]
    kinds = "request remark opening norm reaction quiz translate write".split()
    assert {t.label for t in found} == {*kinds, "small talk"}
    assert len({t.source for t in found}) >= 100
    assert not {t.text for t in found if t.label == "request"} & {
        t.text for lang in corpus.LANGUAGES for t in corpus.requests(lang, "test", 40)[:40]
    }


def test_items_ask_for_the_skills_and_topics_they_are_asked_for():
    two = corpus.items("en", "test", 50, skills=("who", "what"), topics=("kitchen",))
    assert {t.label for t in two} == {"who/kitchen", "what/kitchen"}
    assert len({t.text for t in two}) == 50
    for t in two:
        assert t.answer.rstrip(".") in t.text  # who and what: in the statement
    every = {t.label for t in corpus.items("fr", "test", 600)}
    assert every == {f"{skill}/{topic}" for skill in SKILLS for topic in corpus.TOPICS}


def test_half_remarks_end_before_the_word():
    for half in corpus.half_remarks("test", 30):
        assert half.answer not in half.text and half.refusal not in half.text
    texts = [half.text for half in corpus.half_remarks("test", 30)]
    assert len(set(texts)) == 30
