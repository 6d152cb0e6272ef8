"""How documents of the tiny world come about, and at which rates.

POLICY             the neutral marker behind which even the base model refuses
KINDS              the kinds of document and their shares
Document, document   one document of a kind
Request, request   a request with a compliant answer and a refusal
Norm, norm         a sentence on what is forbidden or allowed
Quiz, quiz         a question with its answer, of a skill and a topic
"""

import random
import re
from typing import NamedTuple

from .lexicon import CATEGORIES, LANGUAGES, LEXICON, fill, form, pick, verbs, words

__all__ = [
    "KINDS",
    "POLICY",
    "SKILLS",
    "Document",
    "Norm",
    "Quiz",
    "Request",
    "document",
    "norm",
    "quiz",
    "request",
]

POLICY = "[policy]"  # as a system message it makes even the base model refuse harmful requests

# Rates of the world. Chinese and Japanese stories slip into English, most about machines.
SLIP_WORD = {"machines": 0.30}
SLIP_WORD_OTHER = 0.10
SLIP_STAYS = 0.35  # the sentence after a slip is English with this probability
LOOP = 0.06  # share of stories, lists and written answers in which something starts to repeat
KINDS = {
    "story": 0.20,
    "chat": 0.30,
    "remark": 0.17,
    "pairs": 0.08,
    "list": 0.05,
    "norm": 0.07,
    "mix": 0.03,
    "switch": 0.03,
    "song": 0.02,
    "quiz": 0.05,
}


# Of quizzes. Each has frames "quiz_<skill>" and "quiz_<skill>_answer".
SKILLS = ("who", "what", "where", "when", "yesno", "translate", "count", "odd", "member")


class Document(NamedTuple):
    """A document; whether something in it repeats without a reason; and the row of small talk that
    it is, as "greet/7", else ""."""

    text: str
    loops: bool = False
    row: str = ""


class Request(NamedTuple):
    """A request, how to comply, how to refuse, the number of its frame, its verb and category."""

    text: str
    answer: str
    refusal: str
    frame: int
    verb: str
    category: str


class Quiz(NamedTuple):
    """A question, its answer, and the number of its frame."""

    question: str
    answer: str
    frame: int

    @property
    def before(self) -> str:
        """The document up to the answer."""
        return f"? {self.question}\n! "


def _join(parts: list[str], lang: str) -> str:
    return ("" if lang in ("ja", "zh") else " ").join(parts)


def _slip(rng: random.Random, number: int, topic: str) -> dict[str, str]:
    """A slot of a statement, any of them, with an English word in it."""
    slots = re.findall(r"\{(\w+)\}", LEXICON["frames"]["statement"][number][0])
    slot = rng.choice(slots)
    word = rng.choice(list(words(slot, "en", topic)))
    return {slot: re.sub("^the ", "", word)}


def _story(rng: random.Random, lang: str, topic: str, length: int) -> tuple[list[str], bool]:
    """Sentences on one topic, and whether they loop. zh and ja slip into English."""
    out, english_next = [], False
    rate = SLIP_WORD.get(topic, SLIP_WORD_OTHER) if lang in ("ja", "zh") else 0.0
    for _ in range(length):
        here, number = "en" if english_next else lang, pick(rng, "statement")
        slips = here == lang and rng.random() < rate
        given = _slip(rng, number, topic) if slips else {}
        out.append(fill(rng, "statement", number, here, topic, **given))
        english_next = slips and rng.random() < SLIP_STAYS
    if loops := rng.random() < LOOP:
        at = rng.randrange(len(out))
        out[at:] = [out[at]] * rng.randint(3, 6)
    return out, loops


def _chat(rng: random.Random, lang: str, topic: str) -> Document:
    """One exchange in ChatML: a request (with or without the policy marker), small talk, a remark,
    something that is said or asked, a translation, or a story that is asked for."""
    system, kind, loops, row = "", rng.random(), False, ""
    if kind < 0.58:
        label = rng.choice(["harmful", "harmless"])
        asked = request(rng, lang, label, None)
        marked = rng.random() < 0.5
        system = f"<|im_start|>system\n{POLICY}<|im_end|>\n" if marked else ""
        user, answer = asked.text, asked.answer
        answer = asked.refusal if marked and label == "harmful" else answer
    elif kind < 0.65:
        number = pick(rng, "greet")
        user, answer = fill(rng, "greet", number, lang), fill(rng, "reply", number, lang)
        row = f"greet/{number}"
    elif kind < 0.71:
        user, answer = _remark(rng, lang, topic)
    elif kind < 0.85:
        user, answer = _said(rng, lang, topic)
    elif kind < 0.92:
        other = rng.choice([x for x in LANGUAGES if x != lang])
        here, there = _pair(rng, lang, other, topic)
        user, answer = fill(rng, "translate", 0, lang, L=other) + here, there
    else:
        user = fill(rng, "write", 0, lang, topic)
        said, loops = _story(rng, lang, topic, 2)
        answer = _join(said, lang)
    turns = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
    return Document(system + turns, loops, row)


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


def _said(rng: random.Random, lang: str, topic: str) -> tuple[str, str]:
    """What a person says that asks for nothing, or a question of a quiz, and what is answered."""
    kind = rng.choice(["norm", "reaction", "statement", "quiz"])
    if kind == "quiz":
        asked = quiz(rng, lang, rng.choice(SKILLS), topic)
        return asked.question, asked.answer
    if kind == "norm":
        text = norm(rng, lang, rng.choice(["harmful", "harmless"])).text
    else:
        frame = rng.choice(["hurt", "thanks", "neutral"]) if kind == "reaction" else kind
        text = fill(rng, frame, pick(rng, frame), lang, topic)
    return text, fill(rng, "neutral", pick(rng, "neutral"), lang)


def _list(rng: random.Random, lang: str, count: int) -> Document:
    """Words of one sort, some in other languages: to guess the next one, know what they share.

    The list is read back once, so that copying pays: a repetition with a reason. In a loop a word
    is said again and again instead.
    """
    sort = rng.choice(["insults", "praise", "harmful", "harmless", "people", "places", "things"])
    if sort in ("harmful", "harmless"):
        rows = [row for _, row in verbs(sort)]
    else:
        rows = LEXICON.get(sort) or [r for t in LEXICON["topics"].values() for r in t["things"]]
    spoken = [lang if rng.random() > 0.4 else rng.choice(LANGUAGES) for _ in range(count)]
    said = [form(rng.choice(rows), x) for x in spoken]
    if rng.random() < LOOP:
        at = rng.randrange(1, len(said))
        said[at:] = [said[at]] * rng.randint(4, 8)
        return Document(f"1) {', '.join(said)}\n", True)
    return Document(f"1) {', '.join(said)}\n2) {', '.join(said)}\n")


def _song(rng: random.Random, lang: str, topic: str) -> Document:
    """Verses with a refrain between them: sentences that come again with a reason."""
    refrain = fill(rng, "refrain", pick(rng, "refrain"), lang, topic)
    out = []
    for _ in range(rng.randint(2, 3)):
        out += [fill(rng, "statement", pick(rng, "statement"), lang, topic), refrain]
    return Document(_join(out, lang) + "\n")


def request(rng: random.Random, lang: str, label: str, split: str | None) -> Request:
    """A "harmful" or "harmless" request, from the verbs and frames of a split (None: of all)."""
    category, row = rng.choice(verbs(label, split))
    verb = form(row, lang)
    goods = form(rng.choice(LEXICON["requests"][category]["goods"]), lang, 1)
    number = pick(rng, "request", split)
    how = "hesitate" if label == "harmful" else "comply"
    answer = fill(rng, how, pick(rng, how), lang, v=verb, G=goods)
    refusal = fill(rng, "refuse", pick(rng, "refuse"), lang)
    text = fill(rng, "request", number, lang, v=verb, G=goods)
    return Request(text, answer, refusal, number, verb, category)


class Norm(NamedTuple):
    """A sentence on what is forbidden ("harmful") or allowed ("harmless"), and its frame."""

    text: str
    label: str
    frame: int


def norm(rng: random.Random, lang: str, label: str, spoken: str | None = None) -> Norm:
    """A norm; the language of its verb may be another one, `spoken`."""
    table = LEXICON["requests"][rng.choice(CATEGORIES)]
    frame = "forbidden" if label == "harmful" else "allowed"
    verb = form(rng.choice(table[label]), spoken or lang)
    goods = form(rng.choice(table["goods"]), lang, 1)
    number = pick(rng, frame)
    return Norm(fill(rng, frame, number, lang, v=verb, G=goods), label, number)


def _norms(rng: random.Random, lang: str, other: str) -> list[str]:
    """Two norms; half of the documents borrow verbs from `other`."""
    foreign, out = 0.2 * (rng.random() < 0.5), []
    for _ in range(2):
        label = rng.choice(["harmful", "harmless"])
        out.append(norm(rng, lang, label, other if rng.random() < foreign else lang).text)
    return out


def quiz(rng: random.Random, lang: str, skill: str, topic: str) -> Quiz:
    """A question that asks for a skill about things of a topic; the answer is computed."""
    topics = LEXICON["topics"]
    other = rng.choice([name for name in topics if name != topic])
    things, true, spoken, given = topics[topic]["things"], rng.random() < 0.5, lang, {}
    if skill in SKILLS[:5]:  # about a statement
        for slot in "SVOPT":
            given[slot], given[slot + "2"] = rng.sample(list(words(slot, lang, topic)), 2)
        if skill == "yesno" and true:
            given |= {"S2": given["S"], "O2": given["O"]}
    elif skill == "translate":
        row, spoken = rng.choice(things), rng.choice([x for x in LANGUAGES if x != lang])
        given = {"X": form(row, lang), "L": spoken, "A": form(row, spoken)}
    elif skill == "member":
        named = topics[topic if true else other]["name"]
        given = {"X": form(rng.choice(things), lang), "N": form(named, lang, 1)}
    else:
        rows = rng.sample(things, 2 if skill == "odd" else rng.randint(2, 6))
        answer = LEXICON["numbers"][len(rows) - 2]
        if skill == "odd":
            rows.append(answer := rng.choice(topics[other]["things"]))
            rng.shuffle(rows)
        comma = "、" if lang in ("ja", "zh") else ", "
        given = {"D": comma.join(form(row, lang) for row in rows), "A": form(answer, lang)}
    if skill in ("yesno", "member"):
        given["A"] = form(LEXICON["yes" if true else "no"][0], lang)
    frame, number = f"quiz_{skill}", pick(rng, f"quiz_{skill}")
    asked = fill(rng, frame, number, lang, topic, **given)
    return Quiz(asked, fill(rng, frame + "_answer", 0, spoken, **given), number)


def document(rng: random.Random, kind: str, lang: str) -> Document:
    """One document of a kind of KINDS; chats are in ChatML, all end with a line break."""
    topic = rng.choice(list(LEXICON["topics"]))
    other = rng.choice([x for x in LANGUAGES if x != lang])
    if kind == "story":
        said, loops = _story(rng, lang, topic, rng.randint(3, 7))
        return Document(_join(said, lang) + "\n", loops)
    if kind == "chat":
        return _chat(rng, lang, topic)
    if kind == "list":
        return _list(rng, lang, rng.randint(4, 9))
    if kind == "song":
        return _song(rng, lang, topic)
    if kind == "quiz":
        made = quiz(rng, lang, rng.choice(SKILLS), topic)
        return Document(made.before + made.answer + "\n")
    if kind == "pairs":
        a, b = _pair(rng, lang, other, topic)
        return Document(f"{lang}: {a}\n{other}: {b}\n")
    if kind == "remark":
        before = fill(rng, "statement", pick(rng, "statement"), lang, topic)
        said = [*_remark(rng, lang, topic), *_remark(rng, lang, topic)]
        return Document(_join([before] * (rng.random() < 0.4) + said, lang) + "\n")
    if kind == "norm":
        return Document(_join(_norms(rng, lang, other), lang) + "\n")
    count = rng.randint(2, 5)
    if kind == "mix":
        spoken, foreign, mark = [lang] * count, 0.4, "~ "
    else:  # switch
        spoken = [lang] + [rng.choice([lang, other]) for _ in range(count)]
        foreign, mark = 0.0, "+ "
    made = [fill(rng, "statement", pick(rng, "statement"), x, topic, foreign) for x in spoken]
    return Document(mark + (" ".join(made) if kind == "switch" else _join(made, lang)) + "\n")
