"""What a text says of itself: its scripts, its language, whether it loops; tokens made visible.

Units of n-grams are words where a text has spaces, and characters in Chinese and Japanese.
"""

import functools
import unicodedata

import regex

MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}
SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Cyrillic": r"\p{Cyrillic}",
    "Han": r"\p{Han}",
    "Kana": r"[\p{Hiragana}\p{Katakana}\u30fc]",
    "other": r"\p{L}",
}
UNITS = regex.compile(r"\p{Han}|[\p{Hiragana}\p{Katakana}\u30fc]|[\p{L}\p{M}\p{N}]+|[^\s]")
MAX_PERIOD = 16  # units of the longest stretch that counts as a loop


def token(tokenizer, number: int) -> str:
    """One token as `visible` text, or as its bytes, "‹E4 B8›", where it is no whole character."""
    text = _decode(tokenizer, [number])
    if "\ufffd" not in text:
        return visible(text)
    # Byte-level vocabularies spell a byte as a character: itself where it prints, else 256 + n.
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in prints]
    spelled = {chr(b): b for b in prints} | {chr(256 + n): b for n, b in enumerate(others)}
    codes = [spelled.get(char) for char in tokenizer.convert_ids_to_tokens(number)]
    return "‹" + " ".join(f"{code:02X}" for code in codes) + "›" if None not in codes else text


def visible(text: str) -> str:
    """Spaces, line breaks and tabs as marks; other control and format characters as ‹U+…›."""
    out = []
    for char in text:
        category = unicodedata.category(char)
        # The joiner and the emoji selector belong to a visible character.
        hidden = category in ("Cc", "Cf", "Zl", "Zp", "Co", "Cn") and char != "\u200d"
        out.append(MARKS.get(char) or (f"‹U+{ord(char):04X}›" if hidden else char))
    return "".join(out) or "∅"


def _decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def script_shares(text: str) -> dict[str, float]:
    """{script: share of the letters}: Latin, Cyrillic, Han, Kana, other; {} without letters.

    Digits, punctuation (full-width too) and symbols are no letters.
    """
    counts, rest = {}, text
    for name, pattern in SCRIPTS.items():
        counts[name] = len(regex.findall(pattern, rest))
        rest = regex.sub(pattern, "", rest)
    letters = sum(counts.values())
    return {name: n / letters for name, n in counts.items() if n} if letters else {}


@functools.lru_cache(maxsize=100_000)
def language(text: str) -> str:
    """ "en", "fr", "ru", "ja", "zh", or "" where no language has most of the letters.

    The script decides where it can: Kana beside Han is Japanese, Han alone Chinese. English and
    French are told apart by py3langid (Lui and Baldwin 2012, "langid.py").
    """
    shares = script_shares(text)
    asian = shares.get("Han", 0) + shares.get("Kana", 0)
    if asian > 0.5:
        return "ja" if shares.get("Kana", 0) > 0.05 else "zh"
    if shares.get("Cyrillic", 0) > 0.5:
        return "ru"
    return _latin().classify(text)[0] if shares.get("Latin", 0) > 0.5 else ""


@functools.cache
def _latin():
    from py3langid import langid

    found = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    found.set_languages(["en", "fr"])
    return found


def loops(text: str) -> bool:
    """True if a text ends in one stretch of 1 to 16 units over and over.

    At least three times in a row, and for at least eight units, so that "..." is no loop.
    """
    units = UNITS.findall(text.lower())
    for period in range(1, MAX_PERIOD + 1):
        times = max(3, -(-8 // period))
        tail = units[-times * period :]
        if len(tail) == times * period and tail == tail[:period] * times:
            return True
    return False
