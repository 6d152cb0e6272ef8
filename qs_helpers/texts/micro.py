"""Texts of the generated micro-world, which comes with its languages, labels, groups and splits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ..presets import nearest
from ..tiny import corpus
from ..tiny.world import KINDS as DOCUMENTS
from ..tiny.world import SKILLS
from .record import Text, normal, own_group
from .splits import SPLITS

USUAL = {"discovery": 120, "validation": 40, "test": 40}


def micro_texts(
    kind: str, part: str, languages: Sequence[str], n: int | Mapping[str, int] | None, seed: int
) -> list[Text]:
    """n[split] texts of each language, and of each label where the kind has two; fewer where the
    world has no more.

    part: of passages, the kind of document to draw; of items, what they ask for, "skills/topics" as
    in "who+when/kitchen+music" or "all/kitchen"; "" for all. ValueError for another kind, part or
    language than the world has.

    passages    a text is its own group; the label is the kind of document
    openings    the group is the frame of the sentence; no frame is in two splits
    questions   first sentences in Chinese and Japanese, which slip into English there; likewise
    remarks     "frame|word": no frame and no word is in two splits
    requests    "frame|verb": likewise
    items       the group is "skill/frame" of the question, the label "skill/topic"
    """
    if kind not in KINDS:
        raise ValueError(f"tiny has no {kind}; it has {', '.join(KINDS)}")
    asked = _asked(part) if kind == "items" else {}
    if part and not asked and (kind != "passages" or part not in DOCUMENTS):
        hint = nearest(part, DOCUMENTS) if kind == "passages" else f"for {kind} say tiny"
        raise ValueError(f"source 'tiny:{part}': {hint}")
    for language in languages:
        if language not in corpus.LANGUAGES:
            raise ValueError(f"tiny has no {language!r}; it has {', '.join(corpus.LANGUAGES)}")
    languages = languages or (("zh", "ja") if kind == "questions" else corpus.LANGUAGES)
    usual = {"test": USUAL["test"]} if kind == "items" else USUAL
    n = usual if n is None else dict.fromkeys(SPLITS, n) if isinstance(n, int) else n
    seen: set[str] = set()
    out = []
    for language in languages:
        for split, count in n.items():
            draw = partial(KINDS[kind], language, split, seed=seed)
            if part:
                draw = partial(draw, **asked or {"kinds": [part]})
            labelled = kind in ("remarks", "requests")
            made = draw(count) if labelled else _distinct(draw, count, seen)
            out += [from_micro(text, kind) for text in made]
    return out


def _passages(language: str, split: str, n: int, seed: int, kinds=None) -> list[corpus.Text]:
    return corpus.documents(n, split, seed, kinds, (language,))


def _asked(part: str) -> dict[str, tuple[str, ...]]:
    """The skills and topics that a part of the items names; where it does not, all."""
    skills, _, topics = part.partition("/")
    known, asked = {"skills": SKILLS, "topics": corpus.TOPICS}, {}
    for name, words in (("skills", skills), ("topics", topics)):
        asked[name] = known[name] if words in ("", "all") else tuple(words.split("+"))
        for word in asked[name]:
            if word not in known[name]:
                hint = nearest(word, known[name])
                raise ValueError(f"source 'tiny:{part}': no {name[:-1]} {word!r}; {hint}")
    return asked


KINDS = {
    "items": corpus.items,
    "openings": corpus.openings,
    "passages": _passages,
    "questions": corpus.continuations,
    "remarks": corpus.remarks,
    "requests": corpus.requests,
}


def _distinct(draw: Callable[[int], list], n: int, seen: set[str]) -> list:
    """The first n texts that are not in `seen`, of those that draw(more) begins with; adds them."""
    for more in (n, 2 * n, 4 * n, 8 * n):
        found: dict = {}
        for text in draw(more):
            found.setdefault(normal(text.text), text)
        new = [name for name in found if name not in seen][:n]
        if len(new) == n:
            break
    seen.update(new)
    return [found[name] for name in new]


def from_micro(text: corpus.Text, kind: str) -> Text:
    """A text of the world as a record."""
    group = own_group(text.text)
    if kind in ("remarks", "requests"):  # a plain statement has no word: it stands for itself
        group = f"{text.source}|{text.word or text.source}"
    elif kind != "passages":
        group = text.source
    return Text(text.text, text.language, text.label, group, text.split, "tiny")
