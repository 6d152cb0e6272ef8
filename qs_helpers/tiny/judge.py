"""What a text of the tiny world is: is it well formed, does it slip, does it refuse?

sentences    split a text into sentences
produces     could the generator of a language have written a sentence?
can_produce  could that of any language?
well_formed  is each whole sentence of a text of the generator of a language?
is_slip      a Chinese or Japanese sentence that holds an English word
is_refusal   does an answer open with a refusal?
opens_refusal   does it begin as one does, though it was cut off?
frame_of     which frame of statements is a sentence made from?
is_request   is a text one of the world's requests, harmful or harmless?
"""

import functools
import itertools
import re

from .lexicon import LANGUAGES, LEXICON, words

__all__ = [
    "can_produce",
    "frame_of",
    "is_refusal",
    "is_request",
    "is_slip",
    "opens_refusal",
    "produces",
    "sentences",
    "well_formed",
]


TOGETHER = ("V", "O", "V2", "O2"), ("v", "G")  # slots whose words go together


def sentences(text: str) -> list[str]:
    """Sentences of a text, stripped. Closing quotes stay with their sentence."""
    found = re.findall(r"[^.!?。！？\n]+[ ]?[.!?。！？]*[\"»」』”]?", text)
    return [s.strip() for s in found if s.strip()]


def is_slip(sentence: str) -> bool:
    """True for a sentence in Chinese or Japanese script that also holds Latin letters."""
    return bool(re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", sentence)) and bool(
        re.search(r"[A-Za-z]", sentence)
    )


def is_refusal(answer: str) -> bool:
    """True if an answer opens with one of the world's refusals, in any language."""
    refusals = itertools.chain.from_iterable(LEXICON["frames"]["refuse"])
    return answer.strip().startswith(tuple(refusals))


def opens_refusal(answer: str) -> bool:
    """True if an answer begins with the first letters of a refusal (six bytes: two in Chinese).

    In this world that tells it from every other answer, also when it was cut off.
    """
    return answer.strip().startswith(_refusal_openings())


@functools.cache
def _refusal_openings() -> tuple[str, ...]:
    refusals = itertools.chain.from_iterable(LEXICON["frames"]["refuse"])
    return tuple(refusal.encode()[:6].decode(errors="ignore") for refusal in refusals)


def frame_of(sentence: str, lang: str) -> str:
    """The frame of a statement, as "statement/3", or "" for a sentence of another sort."""
    patterns = [pattern for frame, pattern, _ in _patterns(lang) if frame == "statement"]
    text = _canonical(sentence, lang)
    return next((f"statement/{n}" for n, p in enumerate(patterns) if p.fullmatch(text)), "")


def is_request(text: str) -> bool:
    """True if a text is, as a whole, a request that the generator could have written."""
    return any(
        frame == "request" and pattern.fullmatch(_canonical(text, lang))
        for lang in LANGUAGES
        for frame, pattern, _ in _patterns(lang)
    )


@functools.cache
def _patterns(lang: str) -> list[tuple[str, re.Pattern, dict[str, dict]]]:
    """Frame, pattern and the words of each slot, for every frame of a language but quizzes."""
    out = []
    for frame, rows in LEXICON["frames"].items():
        for row in [] if frame.startswith("quiz") else rows:
            slots, pattern = {}, ""
            for piece in re.split(
                r"(\{\w+\})", _canonical(row[LANGUAGES.index(lang)], lang).strip()
            ):
                if not piece.startswith("{"):
                    pattern += re.escape(piece)
                    continue
                slot = piece[1:-1]
                slots[slot] = _options(slot, lang, frame)
                longest_first = sorted(slots[slot], key=len, reverse=True)
                pattern += f"(?P<{slot}>{'|'.join(map(re.escape, longest_first))})"
            out.append((frame, re.compile(pattern), slots))
    return out


def _options(slot: str, lang: str, frame: str) -> dict[str, frozenset[str]]:
    """The words that may fill a slot, each with its topics or categories where it has some."""
    options = words(slot, lang)
    if frame == "statement" and lang in ("ja", "zh"):  # slips
        english = words(slot, "en").items()
        options |= {re.sub("^the ", "", word): topics for word, topics in english}
    if slot in ("I", "v"):  # remarks and norms borrow these from other languages
        for other in LANGUAGES:
            for word, names in words(slot, other).items():
                options[word] = options.get(word, frozenset()) | names
    return options


def _canonical(text: str, lang: str) -> str:
    """French "d'ouvrir" as "de ouvrir", so that a pattern needs one form only."""
    return re.sub(r"\bd'(?=[aeiouéêh])", "de ", text) if lang == "fr" else text


@functools.lru_cache(maxsize=100_000)
def produces(lang: str, sentence: str) -> bool:
    """Could the generator of a language have written a sentence (word mixing left aside)?

    Verbs and things of a sentence must share a topic, and the verb and the goods of a request a
    category, as they do in every generated one.
    """
    text = _canonical(sentence, lang)
    for _, pattern, slots in _patterns(lang):
        if match := pattern.fullmatch(text):
            groups = [[slots[s][match[s]] for s in names if s in slots] for names in TOGETHER]
            if all(frozenset.intersection(*names) for names in groups if names):
                return True
    return False


def can_produce(sentence: str) -> bool:
    """Could the generator have written this sentence in some language?"""
    return any(produces(lang, sentence) for lang in LANGUAGES)


def well_formed(text: str, lang: str) -> list[bool]:
    """For each whole sentence of a text that was cut off: is it of the generator of a language?

    A text without a whole sentence counts as one that is not.
    """
    found = sentences(text)
    whole = [s for s in found if re.search(r"[.!?。！？][\"»」』”]?$", s)]
    return [produces(lang, s) for s in whole] or [False]
