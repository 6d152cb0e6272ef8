"""What a text says of itself: its scripts, its language, whether it loops.

Units of n-grams are words where a text has spaces, and characters in Chinese and Japanese.
"""

import functools

import regex

SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Cyrillic": r"\p{Cyrillic}",
    "Han": r"\p{Han}",
    "Kana": r"[\p{Hiragana}\p{Katakana}\u30fc]",
    "other": r"\p{L}",
}
UNITS = regex.compile(r"\p{Han}|[\p{Hiragana}\p{Katakana}\u30fc]|[\p{L}\p{M}\p{N}]+|[^\s]")
MAX_PERIOD = 16  # units of the longest stretch that counts as a loop


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
