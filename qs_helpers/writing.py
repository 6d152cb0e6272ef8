"""Numbers about texts that a model wrote.

script_shares   the share of a text's letters in each script
language        English, French, Russian, Japanese or Chinese, or none
sentences_with  the share of a text's sentences that hold one of some words
distinct_n      distinct n-grams over all n-grams
repeated        the share of n-grams that were there before
compression     how much smaller zlib makes a text
loops           does a text end in a loop?
harmonic_mean   of an effect and its price, as AxBench joins them

Units of n-grams are words where a text has spaces, and characters in Chinese and Japanese.
"""

import functools
import zlib
from collections.abc import Iterable

import regex

__all__ = [
    "compression",
    "distinct_n",
    "harmonic_mean",
    "language",
    "loops",
    "repeated",
    "script_shares",
    "sentences_with",
]

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


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    units = UNITS.findall(text.lower())
    return list(zip(*(units[i:] for i in range(n)), strict=False))


def sentences_with(text: str, words: Iterable[str]) -> float:
    """The share of a text's sentences that hold one of `words`; 0 for a text without any.

    Case is ignored. Words match whole, but anywhere in scripts that put no spaces between them.
    """
    found = [s for s in regex.split(r"(?<=[.!?。！？])|\n", text) if regex.search(r"\p{L}", s)]
    pattern = _any_of(tuple(words))
    return sum(bool(pattern.search(s)) for s in found) / len(found) if found else 0.0


@functools.cache
def _any_of(words: tuple[str, ...]):
    whole = r"(?<![\p{Latin}\p{Cyrillic}])(?:%s)(?![\p{Latin}\p{Cyrillic}])"
    return regex.compile(whole % "|".join(map(regex.escape, words)), regex.IGNORECASE)


def distinct_n(text: str, n: int = 3) -> float:
    """Distinct n-grams over n-grams (Li et al. 2016); 1 for a text of fewer than n units."""
    grams = _grams(text, n)
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated(text: str, n: int = 4) -> float:
    """1 - distinct_n (rep-n of Welleck et al. 2019)."""
    return 1 - distinct_n(text, n)


def compression(text: str) -> float:
    """1 - compressed size / size in UTF-8 (zlib, level 9); 0 where it does not get smaller."""
    data = text.encode("utf-8", "surrogatepass")
    return max(0.0, 1 - len(zlib.compress(data, 9)) / len(data)) if data else 0.0


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


def harmonic_mean(effect: float, fluency: float) -> float:
    """2ab / (a + b) of two numbers from 0 to 1; 0 if one of them is 0 (AxBench, Wu et al. 2025)."""
    if not (0 <= effect <= 1 and 0 <= fluency <= 1):
        raise ValueError(f"harmonic_mean of {effect} and {fluency}: give two numbers from 0 to 1")
    return 2 * effect * fluency / (effect + fluency) if effect and fluency else 0.0
