"""Texts of the generated micro-world, which comes with its languages, labels, groups and splits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ..presets import nearest
from ..tiny import corpus
from ..tiny.world import KINDS as DOCUMENTS
from .record import Text, normal, own_group
from .splits import SPLITS

USUAL = {"discovery": 120, "validation": 40, "test": 40}


def micro_texts(
    kind: str, part: str, languages: Sequence[str], n: int | Mapping[str, int] | None, seed: int
) -> list[Text]:
    """n[split] texts of each language, and of each label where the kind has two; fewer where the
    world has no more.

    part: of passages, the kind of document to draw, "" for all. ValueError for another kind, part
    or language than the world has.

    passages    a text is its own group; the label is the kind of document
    openings    the group is the frame of the sentence; no frame is in two splits
    questions   first sentences in Chinese and Japanese, which slip into English there; likewise
    remarks     "frame|word": no frame and no word is in two splits
    requests    "frame|verb": likewise
    """
    if kind not in KINDS:
        raise ValueError(f"tiny has no {kind}; it has {', '.join(KINDS)}")
    if part and (kind != "passages" or part not in DOCUMENTS):
        hint = nearest(part, DOCUMENTS) if kind == "passages" else f"for {kind} say tiny"
        raise ValueError(f"source 'tiny:{part}': {hint}")
    for language in languages:
        if language not in corpus.LANGUAGES:
            raise ValueError(f"tiny has no {language!r}; it has {', '.join(corpus.LANGUAGES)}")
    languages = languages or (("zh", "ja") if kind == "questions" else corpus.LANGUAGES)
    n = USUAL if n is None else dict.fromkeys(SPLITS, n) if isinstance(n, int) else n
    seen: set[str] = set()
    out = []
    for language in languages:
        for split, count in n.items():
            draw = partial(KINDS[kind], language, split, seed=seed)
            if part:
                draw = partial(draw, kinds=[part])
            labelled = kind in ("remarks", "requests")
            made = draw(count) if labelled else _distinct(draw, count, seen)
            out += [from_micro(text, kind) for text in made]
    return out


def _passages(language: str, split: str, n: int, seed: int, kinds=None) -> list[corpus.Text]:
    return corpus.documents(n, split, seed, kinds, (language,))


KINDS = {
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
