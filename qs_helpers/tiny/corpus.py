"""The generated five-language micro-world that the tiny scope is trained and measured on.

LANGUAGES, SPLITS, POLICY   the five codes, the three splits, the neutral policy marker
TOPICS                      what statements and questions are about
Text                        one labelled text
documents                   unlabelled documents: what the models and SAEs are trained on
remarks                     toxic and clean sentences, labelled
requests                    harmful and harmless requests, with a compliant answer and a refusal
request_twins               pairs of requests that differ in the verb only
half_remarks                remarks up to the insult or the praise
topic_twins                 pairs of openings that differ in the topic, with what may follow each
continuations               first sentences of stories with what the generator wrote next
items                       questions of some skills about some topics, labelled
openings                    the same, greetings, requests and remarks: as many frames as there are

Splits are disjoint. Documents: by a hash of their text. Labelled texts: by sentence frame and by
the word that carries the label (insult, praise, verb), so that no such frame and no such word of
one split is in another. Everything is drawn from seeds. How documents come about is in `world.py`,
the words are in `lexicon.yaml`, and `judge.py` reads texts back.
"""

import hashlib
import itertools
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from .judge import frame_of, is_slip, sentences
from .lexicon import LANGUAGES, LEXICON, SPLITS, bare, fill, form, part, pick, words
from .world import KINDS, POLICY, SKILLS, Document, Request, document, norm, quiz, request

__all__ = [
    "LANGUAGES",
    "POLICY",
    "SPLITS",
    "TOPICS",
    "Text",
    "continuations",
    "documents",
    "half_remarks",
    "harmless",
    "items",
    "openings",
    "remarks",
    "request_twins",
    "requests",
    "small_talk",
    "topic_twins",
]


TOPICS = tuple(LEXICON["topics"])


class Text(NamedTuple):
    """One labelled text."""

    text: str
    label: str
    """"toxic"/"clean" for remarks, "harmful"/"harmless" for requests, the kind for documents"""
    language: str
    split: str
    source: str
    """What made it: frame name and number, as "remark/3"."""
    answer: str = ""
    """Requests: a compliant answer. Continuations: what the generator wrote next. Small talk and
    questions of a quiz: what is answered."""
    refusal: str = ""
    word: str = ""
    """Remarks and requests: the word that varies, as it stands in the lexicon"""
    category: str = ""
    """Requests: the sort of harm"""
    loops: bool = False
    """Documents: whether something repeats without a reason"""


def _split_of(made: Document) -> str:
    """Documents: 8 of 10 discovery, 1 validation, 1 test, by a hash of the text. Small talk: the
    split of its row."""
    if made.row:
        number = int(made.row.partition("/")[2])
        rows = list(range(len(LEXICON["frames"]["greet"])))
        return next(split for split in SPLITS if number in part(rows, split))
    digit = int(hashlib.sha256(made.text.encode()).hexdigest(), 16) % 10
    return {8: "validation", 9: "test"}.get(digit, "discovery")


def documents(n: int, split="discovery", seed=0, kinds=None, languages=LANGUAGES) -> list[Text]:
    """`n` documents of a split; `label` is the kind. Kinds are drawn by `KINDS` unless named."""
    rng = random.Random(f"documents/{split}/{seed}")
    weights = {k: KINDS[k] for k in (kinds or KINDS)}
    out = []
    while len(out) < n:
        kind = rng.choices(list(weights), list(weights.values()))[0]
        lang = rng.choice(languages)
        made = document(rng, kind, lang)
        if _split_of(made) == split:
            source = made.row or kind
            out.append(Text(made.text, kind, lang, split, source, loops=made.loops))
    return out


def _distinct(draw: Iterator[Text], n: int) -> list[Text]:
    """The first `n` distinct texts; fewer where the world has no more."""
    seen: dict[str, Text] = {}
    for text in itertools.islice(draw, 60 * n):
        seen.setdefault(text.text, text)
        if len(seen) == n:
            break
    return list(seen.values())


def remarks(language: str, split: str, n: int, seed=0) -> list[Text]:
    """`n` toxic and `n` clean sentences. Half of the clean ones praise in the frames of the toxic
    ones, a quarter use an insult or a word of praise harmlessly, a quarter are plain statements."""
    rng = random.Random(f"remarks/{language}/{split}/{seed}")

    def draw(label: str) -> Iterator[Text]:
        while True:
            kind = "insults" if label == "toxic" else rng.choice(["praise"] * 2 + ["mention", ""])
            if kind in ("insults", "praise"):
                word = form(rng.choice(part(LEXICON[kind], split)), language)
                number = pick(rng, "remark", split)
                text, source = fill(rng, "remark", number, language, I=word), f"remark/{number}"
            elif kind == "mention":
                row = rng.choice(part(LEXICON[rng.choice(["insults", "praise"])], split))
                word = form(row, language)
                given = {"Ia": form(row, language, 1), "W": bare(row, language)}
                number = pick(rng, "mention", split)
                text, source = fill(rng, "mention", number, language, **given), f"mention/{number}"
            else:
                number = pick(rng, "statement", split)
                text, source = fill(rng, "statement", number, language), f"statement/{number}"
                word = ""
            yield Text(text, label, language, split, source, word=word)

    return _distinct(draw("toxic"), n) + _distinct(draw("clean"), n)


def half_remarks(split: str, n: int, seed=0) -> list[Text]:
    """`n` distinct remarks of all languages, cut off before the word that insults or praises.

    `answer` is an insult and `refusal` a word of praise that could end them.
    """
    rng = random.Random(f"half/{split}/{seed}")

    def draw() -> Iterator[Text]:
        while True:
            lang, number = rng.choice(LANGUAGES), pick(rng, "remark", split)
            head = fill(rng, "remark", number, lang, I="|").split("|")[0].rstrip()
            rude, kind = (form(rng.choice(LEXICON[k]), lang) for k in ("insults", "praise"))
            if head:
                yield Text(head, "half", lang, split, f"remark/{number}", rude, kind)

    return _distinct(draw(), n)


def requests(language: str, split: str, n: int, seed=0) -> list[Text]:
    """`n` harmful and `n` harmless requests, with a compliant answer and a refusal each."""
    rng = random.Random(f"requests/{language}/{split}/{seed}")

    def draw(label: str) -> Iterator[Text]:
        while True:
            yield _from_request(request(rng, language, label, split), label, language, split)

    return _distinct(draw("harmful"), n) + _distinct(draw("harmless"), n)


def _from_request(made: Request, label: str, language: str, split: str) -> Text:
    source = f"request/{made.frame}"
    about = made.answer, made.refusal, made.verb, made.category
    return Text(made.text, label, language, split, source, *about)


def harmless(language: str, split: str, n: int, seed=0) -> list[Text]:
    """Things to say to a model that it should not refuse, `n` distinct ones of every kind or as
    many as there are; the label is the kind.

    Harmless requests; remarks, rude ones too; openings; small talk; norms, which name what is
    forbidden; reactions to remarks; questions of a quiz; translations; topics to write about.
    """
    rng = random.Random(f"harmless/{language}/{split}/{seed}")

    def draw(kind: str) -> Iterator[Text]:
        frames = part(range(len(LEXICON["frames"]["statement"])), split)
        while True:
            topic = rng.choice(TOPICS)
            if kind == "norm":
                made = norm(rng, language, rng.choice(["harmful", "harmless"]))
                text, source = made.text, f"norm/{made.label}/{made.frame}"
            elif kind == "quiz":
                skill = rng.choice(SKILLS)
                made = quiz(rng, language, skill, topic)
                text, source = made.question, f"{skill}/{made.frame}"
            elif kind == "reaction":
                frame = rng.choice(["hurt", "thanks", "neutral"])
                number = pick(rng, frame)
                text, source = fill(rng, frame, number, language), f"{frame}/{number}"
            elif kind == "translate":
                number = rng.choice(frames)
                other = rng.choice([x for x in LANGUAGES if x != language])
                said = fill(rng, "statement", number, language, topic)
                text = fill(rng, "translate", 0, language, L=other) + said
                source = f"translate/{number}"
            else:
                text, source = fill(rng, "write", 0, language, topic), f"write/{topic}"
            yield Text(text, kind, language, split, source)

    out = [t._replace(label="request") for t in requests(language, split, n, seed)[n:]]
    out += [t._replace(label="remark") for t in remarks(language, split, n // 2, seed)]
    out += [t._replace(label="opening") for t in continuations(language, split, n, seed)]
    out += small_talk(language, split, seed)
    for kind in ("norm", "reaction", "quiz", "translate", "write"):
        out += _distinct(draw(kind), n)
    return out


def request_twins(language: str, split: str, n: int, seed=0) -> list[tuple[Text, Text]]:
    """`n` distinct pairs of a harmful and a harmless request that differ in the verb only."""
    rng = random.Random(f"twins/{language}/{split}/{seed}")
    pairs: dict[str, tuple[Text, Text]] = {}
    for _ in range(60 * n):
        state, pair = rng.getstate(), []
        for label in ("harmful", "harmless"):
            rng.setstate(state)  # both lists of verbs are equally long, so all else is the same
            made = request(rng, language, label, split)
            pair.append(_from_request(made, label, language, split))
        pairs.setdefault(pair[0].text, tuple(pair))
        if len(pairs) == n:
            break
    return list(pairs.values())


class Twins(NamedTuple):
    """Two openings of a story that are alike but for its topic, and the words that may follow."""

    text: str
    other: str
    answers: tuple[str, ...]
    """what may follow `text`: the verbs, or the things, of its topic"""
    other_answers: tuple[str, ...]
    language: str
    split: str
    frame: str
    topics: str


def topic_twins(language: str, split: str, n: int, seed=0) -> list[Twins]:
    """`n` distinct pairs of a statement and the beginning of a second one, up to the first word
    that the topic decides. Frames of the split; a story keeps to one topic."""
    rng = random.Random(f"topics/{language}/{split}/{seed}")
    frames = LEXICON["frames"]["statement"]
    column, own = LANGUAGES.index(language), part(list(range(len(frames))), split)
    found: dict[str, Twins] = {}
    while len(found) < n:
        first, second = rng.choice(own), rng.choice(own)
        here, there = rng.sample(TOPICS, 2)
        head, mark = re.split(r"\{([VO])2?\}", frames[second][column], maxsplit=1)[:2]
        same, again = (
            {slot: rng.choice(list(words(slot, language))) for slot in ("S", "S2", "P", "T")}
            for _ in range(2)
        )
        begin = re.sub(r"\{(\w+)\}", lambda m, g=again: g[m[1]], head).rstrip()
        state = rng.getstate()
        gap, texts = "" if language in ("ja", "zh") else " ", []
        for topic in (here, there):
            rng.setstate(state)  # words of one place in their lists
            said = fill(rng, "statement", first, language, topic, **same)
            texts.append((said + gap + begin).rstrip())
        options = [tuple(words(mark, language, topic)) for topic in (here, there)]
        about = language, split, f"statement/{first}", "-".join(sorted((here, there)))
        found.setdefault(texts[0], Twins(*texts, *options, *about))
    return list(found.values())


def continuations(language: str, split: str, n: int, seed=0) -> list[Text]:
    """First sentences of stories without a slip, made from the frames of the split; `answer` is
    the rest of the generator's story."""
    frames = {f"statement/{k}" for k in part(range(len(LEXICON["frames"]["statement"])), split)}
    out, more = [], 4 * n
    while len(out) < n:
        out, more = [], 2 * more
        for story in documents(more, split, seed, ["story"], (language,)):
            first = sentences(story.text)[0]
            if not is_slip(first) and (frame := frame_of(first, language)) in frames:
                rest = story.text[len(first) :]
                out.append(story._replace(text=first, source=frame, answer=rest))
    return out[:n]


def openings(language: str, split: str, n: int, seed=0) -> list[Text]:
    """`n` distinct sentences to go on from: the first of stories, greetings, harmless requests and
    harmless mentions of a remark's words. Every frame has one before any has two, so that few
    texts are of many frames; test has 40 frames."""
    more = max(60, 4 * n)
    kinds = [continuations(language, split, more, seed), small_talk(language, split, seed)]
    kinds.append([t for t in requests(language, split, more, seed) if t.label == "harmless"])
    mentions = [t for t in remarks(language, split, more, seed) if t.source.startswith("mention")]
    frames: dict[str, dict[str, Text]] = {}
    for text in itertools.chain(*kinds, mentions):
        frames.setdefault(text.source, {}).setdefault(text.text, text._replace(label="opening"))
    of_kind: dict[str, list] = {}
    for name, texts in frames.items():
        of_kind.setdefault(name.partition("/")[0], []).append(texts.values())
    in_turn = [
        texts for some in itertools.zip_longest(*of_kind.values()) for texts in some if texts
    ]
    out = [text for some in itertools.zip_longest(*in_turn) for text in some if text is not None]
    return out[:n]


def small_talk(language: str, split: str, seed=0) -> list[Text]:
    """Greetings of a split, one of each row, with their replies."""
    rng = random.Random(f"small talk/{language}/{split}/{seed}")
    return [
        Text(
            fill(rng, "greet", number, language),
            "small talk",
            language,
            split,
            f"greet/{number}",
            fill(rng, "reply", number, language),
        )
        for number in part(range(len(LEXICON["frames"]["greet"])), split)
    ]


def items(language: str, split: str, n: int, seed=0, skills=SKILLS, topics=TOPICS) -> list[Text]:
    """`n` distinct questions of a quiz that ask for some skills about some topics, fewer where the
    world has no more; the label is "skill/topic". Two sets ask for the same where labels are."""
    rng = random.Random(f"items/{skills}/{topics}/{language}/{split}/{seed}")

    def draw() -> Iterator[Text]:
        while True:
            skill, topic = rng.choice(skills), rng.choice(topics)
            made = quiz(rng, language, skill, topic)
            label, source = f"{skill}/{topic}", f"{skill}/{made.frame}"
            yield Text(made.question, label, language, split, source, made.answer)

    return _distinct(draw(), n)
