"""What a text says of itself: its scripts, its language, whether it loops; and is it fluent?

Units of n-grams are words where a text has spaces, and characters in Chinese and Japanese.
"""

import functools
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import regex

from .forward import listed
from .scoring import text_nats

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


WORDS = regex.compile(r"(?:(?![\p{Han}\p{Hiragana}\p{Katakana}])[\p{L}\p{M}])+")
PAIRS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc]{2}")


def words(text: str) -> list[str]:
    """The words of a text, and each two neighbouring characters of Chinese and Japanese."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return WORDS.findall(text) + PAIRS.findall(text, overlapped=True)


def repeats(text: str) -> float:
    """How much of a text is said again and again: 1 where a fifth of its three-unit phrases stand
    in it three times or more, or where a tenth of its units are doubled on the spot."""
    units = [unit.lower() for unit in UNITS.findall(text)]
    phrases = Counter(zip(units, units[1:], units[2:], strict=False))
    often = sum(n for n in phrases.values() if n > 2) / max(1, phrases.total())
    doubled = sum(a == b for a, b in zip(units, units[1:], strict=False)) / max(1, len(units) - 1)
    return max(often / 0.2, doubled / 0.1, float(loops(text)))


@functools.cache
def dictionary(language: str) -> dict[str, float]:
    """{word: its share of running text} of English, French or Russian; {} for other languages.

    From pyspellchecker: counts of film subtitles, cleaned with dictionaries. French has 140,000
    forms, English 160,000, Russian 20,000.
    """
    if language not in ("en", "fr", "ru"):
        return {}
    from spellchecker import SpellChecker

    counted = SpellChecker(language=language).word_frequency
    return {word: n / counted.total_words for word, n in counted.dictionary.items()}


class Fluency:
    """Is a text as fluent as real text of its language? For one language, one model, one length.

    Four things add up to its `excess`. *nats*: how surprising it is to the unedited model, per
    token; 0 is the median of real text of this length, 1 what 19 of 20 real pieces stay below, and
    less than -2 counts as -2: being easy to guess is no merit beyond that. *unknown*: words that
    stand neither in a dictionary of the language nor in `known`, in tenths of the text's words.
    *foreign*: in tenths as well, words that are twenty times as common in another language, or
    letters in another script, whichever is more. *repeats*: see there. A word that does not exist
    is caught where the model does not know the language, and a loop where it finds it easy to
    guess. The model is the one that wrote the text: it is no independent judge.

    A text is fluent if its excess is not above that of the median piece of real text. Half of what
    people write does not pass: what a model writes surprises it less. The form was chosen on texts
    that were labelled by hand, of which tests/core has the list.

    known: real texts of the language; others: {language: real texts}; held_out: more texts of the
    language, from which pieces of `max_tokens` tokens are cut that say what is usual. Chinese and
    Japanese have no dictionary here: pairs of characters that stand in `known` are their words, and
    the unit is what 19 of 20 real pieces stay below. ValueError if there are fewer than eight
    pieces.
    """

    def __init__(self, scope, language: str, known, others: Mapping, held_out, max_tokens: int):
        self.scope = scope
        self.known = _shares(language, known)
        self.others = [_shares(other, texts) for other, texts in others.items()]
        self.pieces = []
        for ids in scope.own_ids(listed(held_out)):
            for start in range(0, len(ids) - max_tokens + 1, max_tokens):
                self.pieces.append(scope.tokenizer.decode(ids[start : start + max_tokens]))
        if len(self.pieces) < 8:
            raise ValueError(
                f"{len(self.pieces)} pieces of {max_tokens} tokens in {len(held_out)} texts, and "
                "eight are needed to say what is usual; give more or longer texts, or fewer tokens"
            )
        self.scripts = {
            name for name, share in script_shares(" ".join(held_out)).items() if share > 0.1
        }
        self.usual = {}  # length in tokens to the median and the 95th percentile of real text
        for n in sorted({max(2, max_tokens // 4), max(2, max_tokens // 2), max_tokens}):
            ids = [tokens[:n] for tokens in self._ids(self.pieces)]
            raw = self._raw(scope.tokenizer.batch_decode(ids))
            self.usual[n] = raw[["nats", "unknown"]].quantile([0.5, 0.95]).to_numpy(copy=True)
        if dictionary(language):
            for found in self.usual.values():
                found[:, 1] = 0, 0.1
        self.limit = float(self.excess(self.pieces).excess.median())

    def excess(self, texts: Sequence[str]) -> pd.DataFrame:
        """nats, unknown, foreign, repeats and their sum, the excess, of each text; inf for a text
        of fewer than two tokens."""
        # A limit of tokens may cut a character in two; it shows as U+FFFD.
        texts = [text.strip().strip("\ufffd").strip() for text in listed(texts)]
        found, lengths = self._raw(texts), [len(ids) for ids in self._ids(texts)]
        table = np.stack(list(self.usual.values()))  # [lengths, quantiles, columns]
        for i, (name, least, room) in enumerate((("nats", -2, 0.05), ("unknown", 0, 0.1))):
            mid, top = (np.interp(lengths, list(self.usual), table[:, q, i]) for q in (0, 1))
            found[name] = ((found[name] - mid) / np.maximum(top - mid, room)).clip(lower=least)
        found["excess"] = found.sum(axis=1)
        found.loc[np.array(lengths) < 2, "excess"] = np.inf
        return found

    def fluent(self, texts: Sequence[str]) -> np.ndarray:
        """Which texts are fluent: bool [texts]. Half of the pieces of real text are."""
        return (self.excess(texts).excess <= self.limit).to_numpy(bool)

    def _raw(self, texts: Sequence[str]) -> pd.DataFrame:
        rows = []
        for text, nats in zip(texts, text_nats(self.scope, texts), strict=True):
            every = words(text)
            inner = every[1:-1] or every  # the first and the last may be cut off
            new = sum(word not in self.known for word in inner) / max(1, len(inner))
            foreign = sum(map(self._foreign, every)) / max(1, len(every))
            away = sum(
                share for name, share in script_shares(text).items() if name not in self.scripts
            )
            rows.append((nats, new, max(foreign, away) / 0.1, repeats(text)))
        return pd.DataFrame(rows, columns=["nats", "unknown", "foreign", "repeats"], dtype=float)

    def _foreign(self, word: str) -> bool:
        """Whether a word of two letters or more is much more common in another language."""
        least = 20 * max(self.known.get(word, 0), 1e-7)
        return len(word) > 1 and any(other.get(word, 0) > least for other in self.others)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.scope.tokenizer(texts, add_special_tokens=False)["input_ids"]


def _shares(language: str, texts: Sequence[str]) -> dict[str, float]:
    """{word: its share}, the larger of that in the dictionary and that in texts."""
    counts = Counter(word for text in texts for word in words(text))
    out, total = dict(dictionary(language)), counts.total()
    for word, n in counts.items():
        out[word] = max(out.get(word, 0), n / total)
    return out
