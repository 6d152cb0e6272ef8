"""Tokens as people read them: whole characters, visible whitespace, nothing dropped."""

import pytest

import qs_helpers as qs
from qs_helpers.views.html import pieces, token, visible

TEXTS = [
    "the cook buys the bread.",
    "老师说：「你好」。",
    "a 👩‍👩‍👧‍👦 family and a 🇫🇷 flag 👍🏽",
    "שלום עולם مرحبا",
    "tab\tline\r\nend",
    "e\u0301 e\u0302\u0323",
    "\x00\x1b[31m\u202ehidden\u200b",
    "<script>alert(1)</script>",
    "�",
]


@pytest.fixture(scope="module")
def tokenizer():
    return qs.load_scope("tiny").tokenizer


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_cover_every_token_once_and_spell_the_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    found = pieces(tokenizer, ids)
    assert "".join(piece.text for piece in found) == text
    assert [piece.start for piece in found] == [0, *(piece.stop for piece in found[:-1])]
    assert found[-1].stop == len(ids)


def test_characters_of_several_tokens_are_joined(tokenizer):
    ids = tokenizer("👩‍👩‍👧‍👦é")["input_ids"]
    assert len(ids) > 2
    assert [piece.text for piece in pieces(tokenizer, ids)] == ["👩‍👩‍👧‍👦", "é"]


def test_half_a_character_is_shown_and_not_dropped(tokenizer):
    ids = tokenizer("𓂀")["input_ids"][:-1]
    found = pieces(tokenizer, ids)
    assert found[-1].stop == len(ids)
    assert "\ufffd" in found[-1].shown


def test_whitespace_and_control_characters_are_visible():
    assert visible(" a\n\tb") == "·a⏎⇥b"
    assert visible("\u202e\x00\u200b") == "‹U+202E›‹U+0000›‹U+200B›"
    assert visible("") == "∅"
    assert visible("👩‍👧") == "👩‍👧"


def test_a_token_of_bytes_is_shown_as_bytes(tokenizer):
    ids = tokenizer("𓂀")["input_ids"]
    shown = " ".join(token(tokenizer, i).strip("‹›") for i in ids)
    assert shown == "𓂀".encode().hex(" ").upper()
    assert token(tokenizer, tokenizer(" the")["input_ids"][0]) == "·the"
