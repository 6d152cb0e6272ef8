"""Texts of the generated micro-world, which comes with its languages, labels, groups and splits."""

from collections.abc import Callable, Mapping, Sequence

from ..presets import nearest
from ..tiny import corpus, judge
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
    openings    the group is the frame of the sentence; the world has eight, in all splits
    questions   openings in Chinese and Japanese, which slip into English there
    remarks     "frame|word": no frame and no word is in two splits
    requests    "frame|verb": likewise
    """
    known = {"remarks": corpus.remarks, "requests": corpus.requests, "passages": None}
    known |= {"openings": None, "questions": None}
    if kind not in known:
        raise ValueError(f"tiny has no {kind}; it has {', '.join(sorted(known))}")
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
            if known[kind]:
                made = known[kind](language, split, count, seed)
            elif kind == "passages":
                kinds = [part] if part else None

                def make(n, split=split, kinds=kinds, language=language):
                    return corpus.documents(n, split, seed, kinds, (language,))

                made = _distinct(make, count, seen)
            else:

                def make(n, split=split, language=language):
                    return corpus.continuations(language, split, n, seed)

                made = _distinct(make, count, seen)
            out += [from_micro(text, kind) for text in made]
    return out


def _distinct(make: Callable[[int], list], n: int, seen: set[str]) -> list:
    """The first n of the texts that make(more) begins with which are not in `seen`; adds them."""
    for more in (n, 2 * n, 4 * n, 8 * n):
        found = {normal(text.text): text for text in reversed(make(more))}
        new = [name for name in reversed(found) if name not in seen][:n]
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
        group = judge.frame_of(text.text, text.language) or group
    return Text(text.text, text.language, text.label, group, text.split, "tiny")
