"""Harmful and harmless prompts: of the tiny world, of a user's file, or of two Hub datasets.

load_prompts  one of the three, in splits
tiny_prompts  requests of the tiny world
tiny_twins    pairs of a harmful and a harmless request that differ in the verb only
read_prompts  a csv or jsonl file

All give the Records of `data.py`; `toxic` says that a prompt is harmful.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from .data import Record, read_labelled, split_texts
from .hub_data import hub_prompts

__all__ = ["load_prompts", "read_prompts", "tiny_prompts", "tiny_twins"]


def load_prompts(
    sources: Sequence[str], n: Mapping[str, int], languages: Sequence[str], seed: int = 0
) -> dict[tuple[str, bool], list[Record]]:
    """Prompts by (split, harmful), at most n[split] of each label and language.

    sources: nothing for the tiny world, one file for `read_prompts`, two names for `hub_prompts`
    (harmful, harmless). Splits are disjoint. Prompts of other languages are left out; one whose
    language nobody said counts as of the first. ValueError for another number of sources, and
    where a split is left without one of the labels.
    """
    if len(sources) > 2:
        raise ValueError(f"{len(sources)} prompt sources; give none, a file, or two Hub datasets")
    if sources:
        found = read_prompts(sources[0], seed=seed) if len(sources) == 1 else hub_prompts(*sources)
        found = [r if r.language else r._replace(language=languages[0]) for r in found]
        records, notes = split_texts([r for r in found if r.language in languages], seed)
        print("\n".join(f"left out: {note}" for note in notes), end="\n" * bool(notes))
    else:
        records = tiny_prompts(n, languages, seed)
    out: dict[tuple[str, bool], list[Record]] = {}
    kept: Counter = Counter()
    for record in records:
        key = record.split, record.toxic
        kept[key, record.language] += 1
        if kept[key, record.language] <= n[record.split]:
            out.setdefault(key, []).append(record)
    return out


def tiny_prompts(n: Mapping[str, int], languages: Iterable[str], seed: int = 0) -> list[Record]:
    """Requests of the tiny world, n[split] of each label and language; the splits share no
    sentence frame and no verb. `source` names both: prompts with the same ones are alike, and are
    no independent samples."""
    from .tiny import corpus

    drawn = [
        text
        for language in languages
        for split, count in n.items()
        for text in corpus.requests(language, split, count, seed)
    ]
    return [
        Record(t.text, t.label == "harmful", t.language, t.split, f"{t.source}/{_verb(t)}")
        for t in drawn
    ]


def _verb(request) -> str:
    """The English name of a request's verb."""
    from .tiny.lexicon import LEXICON, form

    named = {form(row, request.language): row[0] for row in LEXICON[request.label]}
    return named[max((verb for verb in named if verb in request.text), key=len)]


def tiny_twins(n: int, split: str, languages: Iterable[str], seed: int = 0):
    """n pairs (harmful, harmless) of Records for each language, alike but for the verb."""
    from .tiny import corpus

    pairs = [
        pair for language in languages for pair in corpus.request_twins(language, split, n, seed)
    ]
    return [
        tuple(Record(t.text, t.label == "harmful", t.language, t.split, t.source) for t in pair)
        for pair in pairs
    ]


def read_prompts(path, most: int = 5000, seed: int = 0) -> list[Record]:
    """Prompts of a .csv or .jsonl file with columns text, harmful (0 or 1) and, if it likes,
    language and split. ValueError as in `read_labelled`: a missing column, one class only."""
    return read_labelled(path, label="harmful", most=most, seed=seed)
