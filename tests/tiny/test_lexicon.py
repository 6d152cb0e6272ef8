"""The words of the tiny world: five languages in every row, labels split without overlap."""

import re

import pytest

from qs_helpers.tiny.lexicon import LEXICON, SPLITS, part


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


@pytest.mark.parametrize("table", ["insults", "praise", "harmful", "harmless"])
def test_words_that_carry_a_label_are_split_without_overlap(table):
    parts = [part(LEXICON[table], split) for split in SPLITS]
    assert sum(map(len, parts)) == len(LEXICON[table])
    assert all(len(rows) >= 3 for rows in parts)
