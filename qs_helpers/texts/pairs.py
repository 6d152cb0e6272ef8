"""Counterfactual pairs: two prompts that are alike but for what decides how they go on."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..tiny.corpus import LANGUAGES, topic_twins
from . import files, natural
from .record import draw, own_group
from .rows import to_text
from .splits import SPLITS, split_texts


class Pair(NamedTuple):
    """A clean prompt, a corrupted one, and what may follow each."""

    clean: str
    corrupted: str
    answers: tuple[str, ...] = ()
    """what may follow the clean prompt; nothing: nobody said"""
    others: tuple[str, ...] = ()
    """what may follow the corrupted one"""
    language: str = ""
    label: str = ""
    """the task: pairs of one task may share the components that decide"""
    group: str = ""
    """as in `Text`"""
    split: str = ""


def load_counterfactuals(sources: Sequence[str], n: int, seed: int = 0) -> list[Pair]:
    """At most n pairs of each language and split; a summary is printed.

    sources  ["tiny"] or ["natural"]; one .csv or .jsonl file with the columns positive (the clean
             prompt) and negative, and where it has them answer and other (what may follow each:
             a list, or words with "|" between them, each with the space before it), language,
             label, group and split; or two files of prompts, line by line, the clean ones first.

    Splits of a file without them are made as in `split_texts`. ValueError with file and line for
    what cannot be read, two files of unequal length, and prompts that are the same.
    """
    sources = [str(source) for source in sources]
    if not sources or len(sources) > 2:
        raise ValueError(f"{len(sources)} sources of pairs; give one, or two files of prompts")
    pairs = _tiny(n, seed) if sources == ["tiny"] else _split(_pairs(sources), seed)
    kept, taken = [], Counter()
    for pair in sorted(pairs, key=lambda p: draw(seed, "pairs", f"{p.clean}\n{p.corrupted}")):
        taken[pair.language, pair.split] += 1
        if taken[pair.language, pair.split] <= n:
            kept.append(pair)
    kept.sort(key=lambda pair: (pair.language, list(SPLITS).index(pair.split)))
    counts = Counter(pair.split for pair in kept)
    said = ", ".join(f"{split} {counts[split]}" for split in SPLITS if split in counts)
    name = " and ".join(Path(source).name for source in sources)
    print(f"{name}: {len(kept)} pairs; {said}; {len({pair.group for pair in kept})} groups")
    return kept


def _tiny(n: int, seed: int) -> Iterator[Pair]:
    for language in LANGUAGES:
        space = "" if language in ("ja", "zh") else " "
        for split in SPLITS:
            for t in topic_twins(language, split, n, seed):
                answers, others = (
                    tuple(space + word for word in side) for side in (t.answers, t.other_answers)
                )
                group = f"{t.frame}|{t.topics}"
                yield Pair(t.text, t.other, answers, others, language, t.topics, group, split)


def _pairs(sources: list[str]) -> Iterator[Pair]:
    """Pairs of the natural set or of files, in the order of their rows."""
    if sources == ["natural"]:
        found = files.rows(natural.FOLDER / "counterfactuals.jsonl")
    elif len(sources) == 1:
        found = files.rows(Path(sources[0]).expanduser())
    else:
        sides = [list(files.rows(Path(source).expanduser())) for source in sources]
        if len(sides[0]) != len(sides[1]):
            raise ValueError(
                f"{len(sides[0])} prompts in {Path(sources[0]).name}, {len(sides[1])} in "
                f"{Path(sources[1]).name}: line by line, each needs the other"
            )
        found = (
            (where, one | {"positive": one.get("text"), "negative": other.get("text")})
            for (where, one), (_, other) in zip(*sides, strict=True)
        )
    for where, row in found:
        record = to_text(where, row, "openings", {"text": "positive"}, "")
        other = to_text(where, row, "openings", {"text": "negative"}, "").text
        if record.text == other:
            raise ValueError(f"{where}: both prompts are {other!r}; a pair must differ")
        answers, others = (_words(row.get(name)) for name in ("answer", "other"))
        if bool(answers) != bool(others):
            raise ValueError(f"{where}: give both answer and other, or none of them")
        yield Pair(record.text, other, answers, others, *record[1:5])


def _words(cell) -> tuple[str, ...]:
    words = cell if isinstance(cell, list) else str(cell or "").split("|")
    return tuple(str(word) for word in words if str(word).strip())


def _split(pairs: Iterator[Pair], seed: int) -> list[Pair]:
    """Pairs with their splits; of those that are the same, one."""
    by_text = {f"{pair.clean}\n{pair.corrupted}": pair for pair in pairs}
    records = [
        to_text("", {"text": text} | pair._asdict(), "openings", {}, "")
        for text, pair in by_text.items()
    ]
    records = [r if r.group else r._replace(group=own_group(r.text)) for r in records]
    placed, _ = split_texts(records, seed, ())
    return [by_text[r.text]._replace(group=r.group, split=r.split) for r in placed]
