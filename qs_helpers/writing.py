"""What a text says of itself: its scripts, its language, whether it loops, refuses, or switches to
another language; and is it fluent?

Units of n-grams are words where a text has spaces, and characters in Chinese and Japanese.

Switching: Han is shared by Chinese and Japanese, so neither is foreign in the other by Han alone.
English in French, and the other way round, is told sentence by sentence. Code, formulas, links,
addresses, names, units, quotations and what is copied from the prompt do not count, nor do digits
and punctuation of any width.
"""

import functools
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import regex
import torch
from torch import Tensor

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


def sentences_with(text: str, words: Iterable[str]) -> float:
    """The share of a text's sentences that hold one of `words`; 0 for a text without any.

    Case is ignored. Words match whole, but anywhere in scripts that put no spaces between them. A
    str is one word; "", which would stand everywhere, is none.
    """
    words = [words] if isinstance(words, str) else words
    found = [s for s in regex.split(r"(?<=[.!?。！？])|\n", text) if regex.search(r"\p{L}", s)]
    any_of = "|".join(map(regex.escape, filter(None, words))) or "(?!)"
    whole = rf"(?i)(?<![\p{{Latin}}\p{{Cyrillic}}])(?:{any_of})(?![\p{{Latin}}\p{{Cyrillic}}])"
    return sum(bool(regex.search(whole, s)) for s in found) / len(found) if found else 0.0


# English openings are those that most published counts use; the others say the same.
MARKERS = (
    *("I'm sorry", "I am sorry", "I apologize", "As an AI", "I cannot", "I can't", "I won't"),
    *("I'm unable", "I am unable", "I'm not able", "I am not able", "I must decline"),
    *("je suis désolé", "je ne peux pas", "извините", "я не могу", "к сожалению"),
    *("申し訳", "すみません", "お手伝いできません", "抱歉", "对不起", "我不能", "我无法"),
)


def refuses(answers: Sequence[str], markers: Sequence[str] = MARKERS) -> np.ndarray:
    """Which answers hold a marker, in any case: bool [answers]. Biased both ways: a refusal in
    other words is missed, and an answer that quotes one is counted. ValueError for a marker "",
    which stands in every answer."""
    lowered = [marker.casefold() for marker in listed(markers)]
    if "" in lowered:
        raise ValueError("a marker is '', which stands in every answer; leave it out")
    plain = [answer.replace("\u2019", "'").casefold() for answer in listed(answers)]
    return np.array([any(marker in answer for marker in lowered) for answer in plain], bool)


SCRIPTS_OF = {
    "en": ("Latin",),
    "fr": ("Latin",),
    "ru": ("Cyrillic",),
    "ja": ("Han", "Kana"),
    "zh": ("Han",),
}
# Words of these scripts stand right behind a link or an address, without a space.
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]"
SPACED = rf"(?!{UNSPACED})"
IN_LINK = r"[\w\-./?=&%#~:+,;@!]"
# What is written in another script by right.
QUOTED = regex.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$"
    # A formula, but not what stands between two prices: a dollar before a number closes none, and
    # what begins with a number ends right behind a letter or digit.
    r"|(?<![\\\dA-Za-z])\$(?![ \t]?\.?\d)[^$\n]+\$(?!\.?\d)"
    r"|(?<![\\\dA-Za-z])\$(?=\.?\d)[^$\n]+(?<=[^\s\\])\$(?![ \t]?\.?\d)"
    r"|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{.*?\\end\{[^}]*\}"
    # A link; deep in a path its last part may be a title in such a script.
    rf"|(?:https?://|www\.)(?:{SPACED}{IN_LINK})+"
    rf"(?:(?<=\w/{IN_LINK}*[/=_]){UNSPACED}{IN_LINK}*)?"
    rf"|(?:{SPACED}[\w.+-])+@(?:{SPACED}[\w-])+\.(?:{SPACED}[\w.])+"
    # A file name or an identifier, and a unit behind its number.
    r"|[A-Za-z0-9]+(?:[._/\\][A-Za-z0-9]+)+"
    r"|(?<=\d[ \u00a0]?)"
    r"(?:[kcm]?m|[km]?g|[km]?l|m?s|[kMG]?Hz|k?Wh?|[kMGT]?B|min|h|t|px)(?![\p{L}\d])",
    regex.DOTALL,
)
# Marks that belong together: what they hold is a quotation, or the gloss of a term, if all of it
# is foreign. One in the text's own script with a foreign word in it is speech like any other.
MARKS = '“” „“ ‘’ "" 「」 『』 «» 《》 () （） []'.split()
MENTIONED = regex.compile(
    "|".join(rf"{regex.escape(a)}[^{regex.escape(a + b)}\n]+{regex.escape(b)}" for a, b in MARKS)
)
SENTENCE = regex.compile(r"[^.!?…\n。！？]+")
LEAST_WORDS = 5  # of a sentence, from which on its language can be told


class Switching(NamedTuple):
    """Foreign words of one text, what does not count left aside."""

    any: bool
    """is there a run?"""
    share: float
    """foreign letters over letters, 0 for a text without letters"""
    runs: tuple[tuple[int, int], ...]
    """start and stop of each run: a word of two foreign letters or more (one of Han or Kana), or a
    sentence in the other of English and French"""
    onset: int | None
    """where the first run starts, in characters"""


def switching(
    text: str, spoken: str, prompt: str = "", scripts: Collection[str] = tuple(SCRIPTS)
) -> Switching:
    """Runs of `text` that are not in a script of the language `spoken`, but in one of `scripts`.

    A run that stands in `prompt` too was copied and does not count. A word with a capital letter
    is taken for a name. ValueError for a language that SCRIPTS_OF does not know.
    """
    if spoken not in SCRIPTS_OF:
        raise ValueError(f"no scripts for {spoken!r}; choose one of {', '.join(SCRIPTS_OF)}")
    own = "".join(SCRIPTS[name].strip("[]") for name in SCRIPTS_OF[spoken])
    left = QUOTED.sub(_blank, text)
    left = MENTIONED.sub(lambda m: m[0] if regex.search(f"[{own}]", m[0]) else _blank(m), left)
    letters = len(regex.findall(r"\p{L}", left))
    # A run goes on over marks, apostrophes and hyphens inside a word.
    found = regex.finditer(rf"[^\P{{L}}{own}](?:[\p{{M}}'’-]?[^\P{{L}}{own}])*", left)
    wanted = regex.compile("|".join(SCRIPTS[name] for name in scripts))
    runs, foreign = [], 0
    for match in found:
        long = len(regex.findall(r"\p{L}", match[0]))
        copied = prompt and match[0] in prompt
        if copied or regex.search(r"\p{Lu}", match[0]) or not wanted.search(match[0]):
            continue
        foreign += long
        if long >= 2 or regex.search(r"[\p{Han}\p{Hiragana}\p{Katakana}]", match[0]):
            runs.append(match.span())
    if spoken in LATIN and "Latin" in scripts:
        for match in _other_language(text, left, spoken, prompt):
            foreign += len(regex.findall(r"\p{Latin}", match[0]))  # others are counted above
            runs.append(match.span())
    runs = tuple(sorted(runs))
    share, onset = foreign / letters if letters else 0.0, runs[0][0] if runs else None
    return Switching(bool(runs), share, runs, onset)


def _blank(match) -> str:
    return " " * len(match[0])


def _other_language(text: str, left: str, spoken: str, prompt: str):
    """Sentences in the other one of English and French; short ones cannot be told."""
    for match in SENTENCE.finditer(left):
        found = regex.findall(r"\p{L}+", match[0])
        if len(found) >= LEAST_WORDS and language(match[0]) in {*LATIN} - {spoken}:
            if not (prompt and match[0].strip() in prompt):
                yield match


def tongues(texts: Sequence[str], asked: Sequence) -> str:
    """What language the Latin words of slips are in, as far as they tell: "12 in English, 3 in
    French". asked: the record of each text's prompt."""
    counts = {"in English": 0, "in French": 0}
    for text, q in zip(texts, asked, strict=True):
        runs = switching(text, q.language, q.text, ["Latin"]).runs
        if runs:
            words = language(" ".join(text[a:b] for a, b in runs))
            name = {"en": "in English", "fr": "in French"}.get(words, "unclear")
            counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def token_at(scope, text: str, character: int) -> int:
    """Place in `own_ids` of the token that holds a character of a text."""
    spans = scope.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return next(i for i, (_, stop) in enumerate(spans["offset_mapping"]) if stop > character)


def foreign_ids(scope, scripts: tuple[str, ...]) -> Tensor:
    """Ids of tokens that hold a letter of one of `scripts` ("Latin", ...): int64 [tokens].

    Half characters and special tokens are not among them.
    """
    pattern = regex.compile("|".join(SCRIPTS[name] for name in scripts))
    special = set(scope.tokenizer.all_special_ids)
    found = [
        i
        for i in range(len(scope.tokenizer))
        if i not in special and pattern.search(scope.tokenizer.decode([i]))
    ]
    return torch.tensor(found, dtype=torch.int64)
