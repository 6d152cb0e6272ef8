"""From the rows of a file or dataset to a bounded sample of records."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ..presets import nearest
from .hub import CODE
from .record import KINDS, Text, draw, normal
from .splits import SPLITS

COLUMNS = ("text", "language", "label", "group", "split")
# What benchmarks call the text of an item, and what it is about.
ITEM_COLUMNS = {
    "text": ("question", "problem", "prompt", "input"),
    "label": ("subject", "category"),
}
YES = {"1", "true", "yes", "positive"}
NO = {"0", "false", "no", "neutral", "negative"}


def check_columns(columns: Mapping[str, str]) -> None:
    """ValueError for a column that no record has."""
    for name in columns:
        if name not in (*COLUMNS, "positive"):
            raise ValueError(f"columns: {name!r}; {nearest(name, [*COLUMNS, 'positive'])}")


def to_text(where: str, row: Mapping, kind: str, columns: Mapping[str, str], label: str) -> Text:
    """The record of a row, of source "".

    where: file and line. columns: record's to row's names, as in load_texts. label: that of the
    whole source, "" where the row says it. ValueError that names the place: a missing column, an
    empty text, a label that is not understood, a language that is no code, another split.
    """
    labels = KINDS[kind]
    usual = labels[0] if labels and (labels[0] in row or "label" not in row) else "label"
    names = {name: name for name in COLUMNS} | {"label": usual}
    for name, others in ITEM_COLUMNS.items() if kind == "items" else ():
        names[name] = next((x for x in (names[name], *others) if x in row), names[name])
    names |= columns
    needed = ["text"] + ["label"] * bool(labels and not label) + [n for n in columns if n in names]
    needed = dict.fromkeys(names[name] for name in needed if name != "positive" and names[name])
    missing = [name for name in needed if name not in row]
    if missing:
        raise ValueError(
            f"{where}: no column {' or '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, row))}: name yours with columns={{'text': …}}"
        )
    text = row[names["text"]]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: the text is {text!r}; each must be a non-empty string")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{where}: the text holds half a character: {text!r}")
    cells = {name: row.get(names[name]) for name in COLUMNS}
    # nan is what tables have where nothing was written.
    missing = {name for name, cell in cells.items() if cell is None or cell != cell}
    cells = {n: "" if n in missing else str(cell).strip() for n, cell in cells.items()}
    if code := cells["language"]:
        if not CODE.fullmatch(code):
            raise ValueError(f"{where}: the language is {code!r}; give a code such as 'en' or 'zh'")
    if cells["split"] not in ("", *SPLITS):
        known = ", ".join(SPLITS)
        raise ValueError(f"{where}: the split is {cells['split']!r}; use {known}, or none")
    if label:
        cells["label"] = label
    elif labels:
        cells["label"] = _label(where, cells["label"], labels, columns.get("positive"))
    return Text(**cells | {"text": text})


def _label(where: str, word: str, labels: Sequence[str], positive: str | None) -> str:
    """The one of two labels, the positive first, that a word means."""
    yes, no = labels
    word = word.casefold()
    if positive is not None:
        if not word:
            raise ValueError(f"{where}: there is no label; give one, or leave the text out")
        return yes if word == str(positive).strip().casefold() else no
    means_yes, means_no = YES | {yes}, NO | {no, f"non-{yes}", f"non{yes}", f"not {yes}"}
    if word not in means_yes | means_no:
        raise ValueError(
            f"{where}: the label {word!r} is neither of {sorted(means_yes)} nor of "
            f"{sorted(means_no)}; say with columns={{'positive': …}} which word means {yes}"
        )
    return yes if word in means_yes else no


def sample(texts: Iterable[Text], labels: Sequence[str], most: int, seed: int):
    """(texts, how many were left out, by reason): at most `most` of each language, label (of a
    kind that has two) and split, a uniform sample of the different ones.

    Those with the lowest random numbers are kept, and the number comes from seed and text: the
    order of the texts does not matter, and no more than the sample is in memory.
    """
    kept: dict[tuple, dict[int, dict[str, Text]]] = defaultdict(dict)
    heaps: dict[tuple, list[int]] = defaultdict(list)
    left: Counter = Counter()
    for text in texts:
        key = text.language, text.label if labels else "", text.split
        number = -int(draw(seed, "sample", normal(text.text)), 16)
        here, heap = kept[key], heaps[key]
        if number in here:  # of another group it is kept: it ties the two groups together
            left["repeated texts"] += text.group in here[number]
            here[number][text.group] = max(here[number].get(text.group, text), text)
            continue
        here[number] = {text.group: text}
        heapq.heappush(heap, number)
        if len(heap) > most:
            left["beyond a random sample"] += len(here.pop(heapq.heappop(heap)))
    every = (copies for here in kept.values() for copies in here.values())
    return [text for copies in every for text in copies.values()], left
