"""Tokens as people read them: whole characters, visible whitespace, text that stands out."""

import re

import pytest

import qs_helpers as qs
from qs_helpers.views.html import FULL, TEXT, pieces, shade, token, visible

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


def test_text_on_colour_keeps_its_contrast():
    def luminance(rgb):
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    dark = luminance([int(TEXT[i : i + 2], 16) for i in (1, 3, 5)])
    for share in (-1, 0, 0.3, 1, 7):
        rgb = [int(n) for n in re.search(r"rgb\((\d+),(\d+),(\d+)\)", shade(share)).groups()]
        assert (luminance(rgb) + 0.05) / (dark + 0.05) >= 4.5
    assert f"rgb({','.join(map(str, FULL))})" in shade(1)
