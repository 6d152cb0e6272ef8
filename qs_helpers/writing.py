"""What a text says of itself: its scripts, its language, whether it loops.

Units of n-grams are words where a text has spaces, and characters in Chinese and Japanese.
"""

import functools
import unicodedata

import regex

SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Cyrillic": r"\p{Cyrillic}",
    "Han": r"\p{Han}",
    "Kana": r"[\p{Hiragana}\p{Katakana}\u30fc]",
    "other": r"\p{L}",
}
UNITS = regex.compile(r"\p{Han}|[\p{Hiragana}\p{Katakana}\u30fc]|[\p{L}\p{M}\p{N}]+|[^\s]")
LATIN = ("en", "fr")
# Latin letters that English and French do not use, or hardly, and marks of Spanish.
OTHER_LATIN = regex.compile(
    r"[\p{Latin}--[A-Za-zÀÂÆÇÈÉÊËÎÏÔŒÙÛàâæçèéêëîïôœùû]]|[¿¡]", regex.VERSION1
)
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
    French are told apart by py3langid (Lui and Baldwin 2012, "langid.py"). Latin text with letters
    that neither of them uses is asked for all its 97 languages; German without an umlaut is not
    found out in this way.
    """
    shares = script_shares(text)
    asian = shares.get("Han", 0) + shares.get("Kana", 0)
    if asian > 0.5:
        return "ja" if shares.get("Kana", 0) > 0.05 else "zh"
    if shares.get("Cyrillic", 0) > 0.5:
        return "ru"
    if shares.get("Latin", 0) <= 0.5:
        return ""
    if OTHER_LATIN.search(unicodedata.normalize("NFKC", text)):
        if _latin(None).classify(text)[0] not in LATIN:
            return ""
    return _latin(LATIN).classify(text)[0]


@functools.cache
def _latin(languages: tuple[str, ...] | None):
    """What tells some languages apart, or all that py3langid knows."""
    from py3langid import langid

    found = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    if languages:
        found.set_languages(list(languages))
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
