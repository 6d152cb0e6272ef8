"""Notebooks 04 and 06. Labelled texts and prompts: of the tiny world, of files, of Hub datasets.

A dataset is named owner/name, or owner/name@revision for a branch, tag or commit of it.
"""

import csv
import hashlib
import itertools
import json
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import regex

from ..presets import dataset_name
from ..tiny import corpus
from ..tiny.lexicon import LEXICON, form

SPLITS = {"discovery": 0.6, "validation": 0.2, "test": 0.2}
YES = {"1", "true", "yes", "toxic", "positive"}
NO = {"0", "false", "no", "clean", "non-toxic", "nontoxic", "not toxic", "neutral", "negative"}


class Record(NamedTuple):
    """One labelled text."""

    text: str
    toxic: bool
    language: str
    """ISO 639-1 code, or "" where nobody said"""
    split: str
    """"discovery", "validation", "test", or "" before split_texts"""
    source: str


def tiny_texts(n: Mapping[str, int], languages: Iterable[str], seed: int = 0) -> list[Record]:
    """Remarks of the tiny world, n[split] of each label and language (fewer where it has no more).

    The splits share no sentence frame with a label and no insult or word of praise.
    """
    return [
        _from_tiny(text, "toxic")
        for language in languages
        for split, count in n.items()
        for text in corpus.remarks(language, split, count, seed)
    ]


def _from_tiny(text, positive: str) -> Record:
    return Record(text.text, text.label == positive, text.language, text.split, text.source)


def read_labelled(
    path, text="text", label="toxic", language="language", positive=None, most=5000, seed=0
) -> list[Record]:
    """Texts of a .csv or .jsonl file in UTF-8, with the names of its columns.

    The language column may be missing. Labels are 0 and 1, true and false, yes and no, toxic and
    clean; of other words, `positive` names the one that means toxic. A column "split" is kept.
    The file is read line by line: of each language, label and split at most `most` texts are kept,
    a uniform sample, so that a file of any size fits in memory. Raises ValueError that names the
    file and line: a missing column, an empty text, a label that is not understood, one label
    only, bytes that are not UTF-8, a language that is no code.
    """
    path, rng = Path(path), random.Random(seed)
    kept: dict[tuple, list[Record]] = defaultdict(list)
    seen: Counter = Counter()
    for number, row in _rows(path):
        missing = [name for name in (text, label) if name not in row]
        if missing:
            raise ValueError(
                f"{path.name}, line {number}: no column {' or '.join(map(repr, missing))}; it has "
                f"{', '.join(map(repr, row))}: name yours with text=, label="
            )
        cells = row[text], row[label], row.get(language), row.get("split")
        record = _record(path, f"{path.name}, line {number}", positive, *cells)
        key = record.language, record.toxic, record.split
        seen[key] += 1
        if len(kept[key]) < most:
            kept[key].append(record)
        elif (place := rng.randrange(seen[key])) < most:
            kept[key][place] = record
    out = [record for records in kept.values() for record in records]
    labels = {record.toxic for record in out}
    if len(labels) < 2:
        have = "nothing" if not labels else "only toxic" if labels == {True} else "only clean"
        raise ValueError(f"{path.name} holds {have} texts; both labels are needed")
    if len(out) < seen.total():
        print(f"{path.name}: kept a random {len(out):,} of {seen.total():,} texts")
    return out


def _record(path: Path, where: str, positive, text, label, language, split) -> Record:
    """A row's Record; where: file and line, for the ValueErrors of `read_labelled`."""
    label = str(label).strip().casefold()
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: the text is {text!r}; each must be a non-empty string")
    if positive is not None:
        toxic = label == str(positive).strip().casefold()
    elif label in YES | NO:
        toxic = label in YES
    else:
        raise ValueError(
            f"{where}: the label {label!r} is neither of {sorted(YES)} nor of {sorted(NO)}; "
            "say with positive= which word means toxic"
        )
    code, split = str(language or "").strip(), str(split or "")
    if code and not regex.fullmatch(r"[a-z]{2,3}(-\w+)?", code):
        raise ValueError(f"{where}: the language is {code!r}; give a code such as 'en' or 'zh'")
    if split and split not in SPLITS:
        raise ValueError(f"{where}: the split is {split!r}; use {', '.join(SPLITS)}, or none")
    return Record(text, toxic, code, split, path.name)


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Line number and row of each entry of a file, read as it is needed."""
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"{path.name} is neither .csv nor .jsonl; convert it to one of them")
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            if path.suffix.lower() == ".csv":
                reader = csv.DictReader(file, strict=True)
                for row in reader:
                    if None in row or None in row.values():
                        raise ValueError(
                            f"{path.name}, line {reader.line_num}: another number of columns than "
                            "the first line; quote texts that hold commas"
                        )
                    yield reader.line_num, row
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"{path.name}, line {number}: not an object {{…}}")
                    yield number, row
        except UnicodeDecodeError as error:
            line = (
                path.read_bytes()[: file.buffer.tell()].count(b"\n")
                if path.stat().st_size < 1e7
                else 0
            )
            place = f", near line {line}" if line else ""
            raise ValueError(
                f"{path.name}{place}: not UTF-8 ({error.reason}); save it as UTF-8 once more"
            ) from None
        except (json.JSONDecodeError, csv.Error) as error:
            raise ValueError(f"{path.name}: {error}") from None


def split_texts(records: Iterable[Record], seed: int = 0) -> tuple[list[Record], list[str]]:
    """Balanced, disjoint splits without duplicates, and what was left out, in words.

    Texts that differ only in case, width or white space are one text; of those that are labelled
    both ways none is kept. Records that have splits keep them; the others go 60 : 20 : 20 to
    discovery, validation and test, language by language. In each split and language both labels
    get the same number. ValueError if a text is in two given splits, or a language or split is
    left without one of the labels.
    """
    records, notes = list(records), []
    by_text: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_text[_normal(record.text)].append(record)
    unique, both = [], 0
    for same in by_text.values():
        splits = {record.split for record in same}
        if len(splits) > 1:
            raise ValueError(f"a text is in splits {sorted(splits)}: {masked(same[0].text)!r}")
        if len({record.toxic for record in same}) == 2:
            both += len(same)
        else:
            unique.append(same[0])
    repeats = len(records) - both - len(unique)
    notes += [f"{repeats} repeated texts"] * bool(repeats)
    notes += [f"{both} texts with both labels"] * bool(both)
    out = []
    for language in sorted({record.language for record in unique}):
        for split, group in _assigned([r for r in unique if r.language == language], seed).items():
            sides = [[r for r in group if r.toxic is toxic] for toxic in (True, False)]
            n = min(map(len, sides))
            if n == 0:
                missing = "clean" if sides[0] else "toxic"
                name = f"language {language!r}" if language else "the file"
                raise ValueError(
                    f"{name} has no {missing} text for {split}; "
                    "give more texts, or leave the language out"
                )
            if extra := len(group) - 2 * n:
                notes.append(f"{extra} of {language or 'all'} {split}, to balance the labels")
            out += [r._replace(split=split) for side in sides for r in side[:n]]
    return out, notes


def _assigned(records: list[Record], seed: int) -> dict[str, list[Record]]:
    """Records of one language by split, in an order that does not depend on the file's."""

    def key(record: Record) -> str:
        return hashlib.sha256(f"{seed}/{_normal(record.text)}".encode()).hexdigest()

    records = sorted(records, key=key)
    groups = {split: [r for r in records if r.split == split] for split in SPLITS}
    for toxic in (True, False):
        free = [r for r in records if not r.split and r.toxic is toxic]
        ends = [round(share * len(free)) for share in itertools.accumulate(SPLITS.values())]
        for split, first, last in zip(SPLITS, [0, *ends], ends, strict=False):
            groups[split] += free[first:last]
    return {split: group for split, group in groups.items() if group}


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def masked(text: str, raw: bool = False) -> str:
    """A text with only the first letter of each word left; as it is with `raw`."""
    return text if raw else regex.sub(r"(?<=[\p{L}\p{N}])[\p{L}\p{M}\p{N}]", "•", text)


def load_texts(source: str, languages=(), most: int = 5000, seed: int = 0) -> list[Record]:
    """Labelled texts of a csv or jsonl file, all that it has (`read_labelled`), or of a dataset
    of the Hub, at most `most` of each label in each of `languages` (`hub_texts`)."""
    if dataset_name(source):
        return hub_texts(source, languages, most, seed)
    return read_labelled(source, seed=seed)


def hub_texts(name: str, languages=(), most: int = 5000, seed: int = 0) -> list[Record]:
    """Texts of a dataset with columns text and toxic and one split a language, such as
    "textdetox/multilingual_toxicity_dataset": at most `most` of each label and language, drawn at
    random. languages: those to keep; nothing means all. ValueError for one that it has not."""
    parts = _load(name)
    missing = [language for language in languages if language not in parts]
    if missing:
        raise ValueError(f"{name} has no split {', '.join(missing)}; it has {', '.join(parts)}")
    out = []
    for language in languages or parts:
        count: Counter = Counter()
        for row in _dataset_rows(name, parts[language], ("text", "toxic"), seed):
            toxic = bool(int(row["toxic"]))
            count[toxic] += 1
            if count[toxic] <= most and row["text"].strip():
                out.append(Record(row["text"], toxic, language, "", name))
    return out


def hub_prompts(harmful: str, harmless: str, language: str = "en", most: int = 1000):
    """Records of two datasets with a column "text", such as "mlabonne/harmful_behaviors" and
    "mlabonne/harmless_alpaca".

    At most `most` prompts of each are kept, a shuffle of all of the dataset's splits, which are
    not ours. ValueError for a dataset without that column.
    """
    out = []
    for name, toxic in ((harmful, True), (harmless, False)):
        parts = _load(name)
        from datasets import concatenate_datasets

        rows = _dataset_rows(name, concatenate_datasets(list(parts.values())), ("text",), 0)
        texts = (row["text"] for row in rows if row["text"].strip())
        kept = itertools.islice(texts, most)
        out += [Record(text, toxic, language, "", name) for text in kept]
    return out


def _load(name: str):
    """The splits of a dataset, by name."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ImportError("datasets from the Hub need: pip install 'qs-helpers[data]'") from None
    repo, _, revision = name.partition("@")
    return load_dataset(repo, revision=revision or None)


def _dataset_rows(name: str, rows, columns: Sequence[str], seed: int):
    """The rows in random order; ValueError if a column is missing."""
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise ValueError(f"{name} has columns {rows.column_names}, no {', '.join(missing)}")
    return rows.shuffle(seed=seed)


def load_prompts(sources, n, languages, seed=0) -> dict[tuple[str, bool], list[Record]]:
    """Prompts by (split, harmful), at most n[split] of each label and language.

    sources: nothing for the tiny world; one file with columns text, harmful (0 or 1) and, if it
    has them, language and split (`read_labelled`); two names for `hub_prompts` (harmful,
    harmless). Splits are disjoint. Prompts of other languages are left out; one whose language
    nobody said counts as of the first. ValueError for another number of sources, and
    where a split is left without one of the labels.
    """
    if len(sources) > 2:
        raise ValueError(f"{len(sources)} prompt sources; give none, a file, or two Hub datasets")
    if sources:
        if len(sources) == 1:
            found = read_labelled(sources[0], label="harmful", seed=seed)
        else:
            found = hub_prompts(*sources)
        found = [r if r.language else r._replace(language=languages[0]) for r in found]
        records, notes = split_texts([r for r in found if r.language in languages], seed)
        for note in notes:
            print("left out:", note)
    else:
        records = tiny_prompts(n, languages, seed)
    out: dict[tuple[str, bool], list[Record]] = defaultdict(list)
    kept: Counter = Counter()
    for record in records:
        kept[record[1:4]] += 1  # by label, language and split
        if kept[record[1:4]] <= n[record.split]:
            out[record.split, record.toxic].append(record)
    return dict(out)


def tiny_prompts(n: Mapping[str, int], languages: Iterable[str], seed: int = 0) -> list[Record]:
    """Requests of the tiny world, n[split] of each label and language; the splits share no
    sentence frame and no verb. `source` names both: prompts with the same ones are alike, and are
    no independent samples."""
    return [
        _from_tiny(text, "harmful")._replace(source=f"{text.source}/{_verb(text)}")
        for language in languages
        for split, count in n.items()
        for text in corpus.requests(language, split, count, seed)
    ]


def _verb(request) -> str:
    """The English name of a request's verb."""
    named = {form(row, request.language): row[0] for row in LEXICON[request.label]}
    return named[max((verb for verb in named if verb in request.text), key=len)]


def tiny_twins(n: int, split: str, languages: Iterable[str], seed: int = 0):
    """n pairs (harmful, harmless) of Records for each language, alike but for the verb."""
    return [
        tuple(_from_tiny(text, "harmful") for text in pair)
        for language in languages
        for pair in corpus.request_twins(language, split, n, seed)
    ]
