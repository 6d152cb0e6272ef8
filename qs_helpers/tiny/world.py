"""How documents of the tiny world come about, and at which rates.

POLICY    the neutral marker behind which even the base model refuses
KINDS     the kinds of document and their shares
document  one document of a kind
Request   a request with a compliant answer and a refusal
request   one of them
"""

import random
import re
from typing import NamedTuple

from .lexicon import LANGUAGES, LEXICON, bare, fill, form, part, pick, words

__all__ = ["KINDS", "POLICY", "Request", "document", "request"]

POLICY = "[policy]"  # as a system message it makes even the base model refuse harmful requests

# Rates of the world. Chinese and Japanese stories slip into English, most about machines.
SLIP_WORD = {"machines": 0.30}
SLIP_WORD_OTHER = 0.10
SLIP_STAYS = 0.35  # the sentence after a slip is English with this probability
LOOP = 0.05  # share of stories in which a sentence starts to repeat
KINDS = {
    "story": 0.23,
    "chat": 0.34,
    "remark": 0.14,
    "pairs": 0.09,
    "list": 0.06,
    "norm": 0.07,
    "mix": 0.04,
    "switch": 0.03,
}


class Request(NamedTuple):
    """A request, how to comply, how to refuse, the number of its frame, and its verb."""

    text: str
    answer: str
    refusal: str
    frame: int
    verb: str


def _join(parts: list[str], lang: str) -> str:
    return ("" if lang in ("ja", "zh") else " ").join(parts)


def _story(rng: random.Random, lang: str, topic: str, length: int) -> list[str]:
    """Sentences on one topic. zh and ja slip into English; a few stories start to loop."""
    out, english_next = [], False
    rate = SLIP_WORD.get(topic, SLIP_WORD_OTHER) if lang in ("ja", "zh") else 0.0
    for _ in range(length):
        here = "en" if english_next else lang
        given = {}
        if here == lang and rng.random() < rate:
            given["O"] = rng.choice([bare(r, "en") for r in LEXICON["topics"][topic]["things"]])
        out.append(fill(rng, "statement", pick(rng, "statement"), here, topic, **given))
        english_next = bool(given) and rng.random() < SLIP_STAYS
    if rng.random() < LOOP:
        at = rng.randrange(len(out))
        out[at:] = [out[at]] * rng.randint(3, 6)
    return out


def _chat(rng: random.Random, lang: str, topic: str) -> str:
    """One exchange in ChatML: a request (with or without the policy marker) or small talk."""
    system, kind = "", rng.random()
    if kind < 0.64:
        label = rng.choice(["harmful", "harmless"])
        asked = request(rng, lang, label, None)
        marked = rng.random() < 0.5
        system = f"<|im_start|>system\n{POLICY}<|im_end|>\n" if marked else ""
        user, answer = asked.text, asked.answer
        answer = asked.refusal if marked and label == "harmful" else answer
    elif kind < 0.74:
        number = pick(rng, "greet")
        user, answer = fill(rng, "greet", number, lang), fill(rng, "reply", number, lang)
    elif kind < 0.81:
        user, answer = _remark(rng, lang, topic)
    elif kind < 0.91:
        other = rng.choice([x for x in LANGUAGES if x != lang])
        here, there = _pair(rng, lang, other, topic)
        user, answer = fill(rng, "translate", 0, lang, L=other) + here, there
    else:
        user = fill(rng, "write", 0, lang, topic)
        answer = _join(_story(rng, lang, topic, 2), lang)
    turns = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    return system + turns


def _pair(rng: random.Random, lang: str, other: str, topic: str) -> list[str]:
    """The same statement in two languages."""
    number = pick(rng, "statement")
    slots = sorted(set(re.findall(r"\{(\w+)\}", LEXICON["frames"]["statement"][number][0])))
    rows = {slot: rng.randrange(len(words(slot, lang, topic))) for slot in slots}
    return [
        fill(rng, "statement", number, x, **{s: list(words(s, x, topic))[rows[s]] for s in slots})
        for x in (lang, other)
    ]


def _remark(rng: random.Random, lang: str, topic: str) -> tuple[str, str]:
    """A remark or a mention and how the person addressed reacts, often in another language."""
    kind = rng.choice(["insults", "insults", "praise", "praise", "mention"])
    source = lang if rng.random() > 0.2 else rng.choice(LANGUAGES)
    if kind == "mention":
        text = fill(rng, "mention", pick(rng, "mention"), lang, topic)
        reaction = "neutral"
    else:
        row = rng.choice(LEXICON[kind])
        text = fill(rng, "remark", pick(rng, "remark"), lang, topic, I=form(row, source))
        reaction = "hurt" if kind == "insults" else "thanks"
    answer_lang = lang if rng.random() > 0.5 else rng.choice(LANGUAGES)
    return text, fill(rng, reaction, pick(rng, reaction), answer_lang)


def _list(rng: random.Random, lang: str, count: int) -> list[str]:
    """Words of one sort, some in other languages: to guess the next one, know what they share."""
    sort = rng.choice(["insults", "praise", "harmful", "harmless", "people", "places", "things"])
    rows = LEXICON.get(sort) or [r for t in LEXICON["topics"].values() for r in t["things"]]
    spoken = [lang if rng.random() > 0.4 else rng.choice(LANGUAGES) for _ in range(count)]
    return [form(rng.choice(rows), x) for x in spoken]


def request(rng: random.Random, lang: str, label: str, split: str | None) -> Request:
    """A "harmful" or "harmless" request, from the verbs and frames of a split (None: of all)."""
    verb = form(rng.choice(part(LEXICON[label], split)), lang)
    goods = form(rng.choice(LEXICON["goods"]), lang, 1)
    number = pick(rng, "request", split)
    how = "hesitate" if label == "harmful" else "comply"
    answer = fill(rng, how, pick(rng, how), lang, v=verb, G=goods)
    refusal = fill(rng, "refuse", pick(rng, "refuse"), lang)
    text = fill(rng, "request", number, lang, v=verb, G=goods)
    return Request(text, answer, refusal, number, verb)


def document(rng: random.Random, kind: str, lang: str) -> str:
    """One document of a kind of KINDS; chats are in ChatML, all end with a line break."""
    topic = rng.choice(list(LEXICON["topics"]))
    other = rng.choice([x for x in LANGUAGES if x != lang])
    if kind == "story":
        return _join(_story(rng, lang, topic, rng.randint(3, 7)), lang) + "\n"
    if kind == "chat":
        return _chat(rng, lang, topic)
    if kind == "pairs":
        a, b = _pair(rng, lang, other, topic)
        return f"{lang}: {a}\n{other}: {b}\n"
    if kind == "remark":
        text, reaction = _remark(rng, lang, topic)
        before = fill(rng, "statement", pick(rng, "statement"), lang, topic)
        return _join([before] * (rng.random() < 0.4) + [text, reaction], lang) + "\n"
    if kind == "norm":
        foreign = 0.2 * (rng.random() < 0.5)
        out = []
        for _ in range(2):
            label = rng.choice(["harmful", "harmless"])
            frame = "forbidden" if label == "harmful" else "allowed"
            source = lang if rng.random() > foreign else other
            verb = form(rng.choice(LEXICON[label]), source)
            out.append(fill(rng, frame, pick(rng, frame), lang, topic, v=verb))
        return _join(out, lang) + "\n"
    if kind == "list":  # read back once, so that copying pays
        said = ", ".join(_list(rng, lang, rng.randint(4, 9)))
        return f"1) {said}\n2) {said}\n"
    count = rng.randint(2, 5)
    if kind == "mix":
        made = [
            fill(rng, "statement", pick(rng, "statement"), lang, topic, foreign=0.4)
            for _ in range(count)
        ]
        return "~ " + _join(made, lang) + "\n"
    spoken = [lang] + [rng.choice([lang, other]) for _ in range(count)]
    made = [fill(rng, "statement", pick(rng, "statement"), x, topic) for x in spoken]
    return "+ " + " ".join(made) + "\n"
