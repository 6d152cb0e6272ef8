"""The tiny world slips, loops and refuses at the stated rates and places."""

import random
import re
from collections import Counter

import pytest

from qs_helpers.tiny import corpus, judge
from qs_helpers.tiny.lexicon import LEXICON, words
from qs_helpers.tiny.world import LOOP, SKILLS, quiz


def test_only_chinese_and_japanese_stories_slip_and_at_the_stated_rate():
    for lang in corpus.LANGUAGES:
        told = corpus.documents(600, kinds=["story"], languages=(lang,))
        slips = [judge.is_slip(s) for d in told for s in judge.sentences(d.text)]
        if lang in ("ja", "zh"):
            assert 0.08 < sum(slips) / len(slips) < 0.16
        else:
            assert not any(slips)


def test_refusals_in_documents_follow_harm_and_marker_only():
    for chat in corpus.documents(800, kinds=["chat"]):
        answer = chat.text.split("<|im_start|>assistant\n")[1]
        if judge.is_refusal(answer):
            assert corpus.POLICY in chat.text


def test_slips_are_at_every_place_of_a_sentence():
    """A warning of slips must not be a detector of one part of speech."""
    english = {slot: {re.sub("^the ", "", w) for w in words(slot, "en")} for slot in "SVOTP"}
    places = Counter()
    for text in corpus.documents(3000, kinds=["story"], languages=("ja", "zh")):
        for sentence in filter(judge.is_slip, judge.sentences(text.text)):
            said = " ".join(re.findall(r"[A-Za-z][A-Za-z ]*", sentence)).strip()
            places.update(slot for slot, known in english.items() if said in known)
    total = sum(places.values())
    assert set(places) == set("SVOTP") and max(places.values()) < 0.45 * total
    assert min(places[slot] for slot in "SVO") > 0.15 * total


def repeats(text: str) -> bool:
    said = judge.sentences(text)
    return any(a == b == c for a, b, c in zip(said, said[1:], said[2:], strict=False))


def test_loops_are_in_several_kinds_and_repetition_with_reason_is_no_loop():
    docs = corpus.documents(9000, seed=1)
    share = {kind: [d.loops for d in docs if d.label == kind] for kind in ("story", "list", "chat")}
    for kind in ("story", "list"):
        assert 0.5 * LOOP < sum(share[kind]) / len(share[kind]) < 1.6 * LOOP
    assert sum(share["chat"]) > 0
    songs = [d for d in docs if d.label == "song"]
    assert songs and not any(d.loops for d in songs)
    assert all(len(set(judge.sentences(d.text))) < len(judge.sentences(d.text)) for d in songs)
    assert not any(repeats(d.text) for d in docs if d.label == "story" and not d.loops)


@pytest.mark.parametrize("lang", corpus.LANGUAGES)
def test_answers_of_quizzes_are_right(lang):
    """Computed again here, from the question."""
    rng, topics = random.Random(3), LEXICON["topics"]
    of = {w: t for t in topics for w in words("O", lang, t)}
    column = corpus.LANGUAGES.index(lang)
    of |= {row[column].split("|")[0]: t for t in topics for row in topics[t]["things"]}
    yes, no = (LEXICON[word][0][column] for word in ("yes", "no"))
    numbers = [row[column] for row in LEXICON["numbers"]]
    for _ in range(150):
        skill = rng.choice(SKILLS)
        made = quiz(rng, lang, skill, rng.choice(list(topics)))
        answer = made.answer.rstrip(".。")
        if skill in ("count", "odd"):
            comma = "、" if lang in ("ja", "zh") else ", "
            listed = re.split(r"[:：?？.。]", made.question)
            named = max((part.strip().split(comma) for part in listed), key=len)
            if skill == "count":
                assert numbers.index(answer) == len(named) - 2, made
            else:
                others = [of[word] for word in named if word != answer]
                assert len(set(others)) == 1 and of[answer] != others[0], made
        elif skill in ("yesno", "member"):
            assert answer in (yes, no)
        elif skill != "translate":
            assert answer in made.question
