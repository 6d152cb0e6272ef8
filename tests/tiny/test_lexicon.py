"""The words of the tiny world: five languages in every row, labels split without overlap."""

import re

import pytest

from qs_helpers.tiny.lexicon import CATEGORIES, LANGUAGES, LEXICON, SPLITS, form, part, verbs


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


@pytest.mark.parametrize("table", ["insults", "praise"])
def test_words_that_carry_a_label_are_split_without_overlap(table):
    parts = [part(LEXICON[table], split) for split in SPLITS]
    assert [len(rows) for rows in parts] == [9, 5, 10]
    assert sum(parts, []) == LEXICON[table]


@pytest.mark.parametrize("label", ["harmful", "harmless"])
def test_verbs_of_requests_are_split_and_every_split_has_many_categories(label):
    assert len(CATEGORIES) == 6 and len(verbs(label)) == 24
    parts = [verbs(label, split) for split in SPLITS]
    assert [len(part) for part in parts] == [9, 5, 10] and sum(parts, []) == verbs(label)
    assert [len({category for category, _ in part}) for part in parts] == [6, 5, 6]
    for category, row in verbs(label):
        assert row in LEXICON["requests"][category][label]


def test_every_split_has_enough_frames_and_words_of_its_own():
    """A verdict needs eight groups of both."""
    for frame, least in (("remark", 10), ("request", 10), ("statement", 10), ("mention", 8)):
        rows = LEXICON["frames"][frame]
        assert len(rows) >= 20 and len(part(rows, "test")) >= least
    assert len(part(LEXICON["frames"]["greet"], "test")) >= 10
    assert len(LEXICON["frames"]["greet"]) == len(LEXICON["frames"]["reply"])


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_word_is_in_two_lists_or_twice_in_one(lang):
    lists = {name: LEXICON[name] for name in ("insults", "praise", "people")}
    lists |= {label: [row for _, row in verbs(label)] for label in ("harmful", "harmless")}
    words = [form(row, lang) for rows in lists.values() for row in rows]
    twice = {word for word in words if words.count(word) > 1}
    # One Chinese word each: a student and a pupil, a singer of both sorts.
    assert twice <= {"学生", "歌手"}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_frames_are_distinct(lang):
    for name, rows in LEXICON["frames"].items():
        texts = [row[LANGUAGES.index(lang)] for row in rows]
        assert len(set(texts)) == len(texts), name
