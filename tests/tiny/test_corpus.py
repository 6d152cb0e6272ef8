"""Texts of the tiny world: fixed by their seed, in one split only, balanced and distinct."""

import pytest

from qs_helpers.tiny import corpus, judge
from qs_helpers.tiny.lexicon import SPLITS

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


def test_half_remarks_end_before_the_word():
    for half in corpus.half_remarks("test", 30):
        assert half.answer not in half.text and half.refusal not in half.text
    texts = [half.text for half in corpus.half_remarks("test", 30)]
    assert len(set(texts)) == 30
