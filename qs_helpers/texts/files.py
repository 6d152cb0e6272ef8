"""Rows of a file, read one after the other as they are needed."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".csv", ".jsonl", ".txt")


def rows(path: Path, paragraphs: bool = False) -> Iterator[tuple[str, dict]]:
    """("mine.csv, line 2", row) of each entry of a .csv, .jsonl or .txt file in UTF-8.

    A row of a .txt file is {"text": a line}, or a paragraph between blank lines. ValueError that
    names file and line for what cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path.name} is neither .csv, .jsonl nor .txt; convert it to one of them")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    # JSON lines end at "\n" alone, and csv has rules of its own.
    newline = {".csv": "", ".jsonl": "\n"}.get(suffix)
    with open(path, encoding="utf-8-sig", newline=newline) as file:
        read = {".csv": _csv, ".jsonl": _jsonl, ".txt": _paragraphs if paragraphs else _lines}
        try:
            for number, row in read[suffix](file, path.name):
                yield f"{path.name}, line {number}", row
        except UnicodeDecodeError as error:
            place = ""
            if path.stat().st_size < 1e7:
                line = path.read_bytes()[: file.buffer.tell()].count(b"\n")
                place = f", near line {line}"
            raise ValueError(
                f"{path.name}{place}: not UTF-8 ({error.reason}); save it as UTF-8 once more"
            ) from None


def _csv(file, name: str) -> Iterator[tuple[int, dict]]:
    """Rows of a table whose columns are separated by what its header has: a comma, else a semicolon
    or a tab, as spreadsheets write; or by what a first line such as "sep=;" says."""
    csv.field_size_limit(2**31 - 1)  # a text may be longer than csv's 131,072 characters
    head, before = file.readline(), 0
    said = head.rstrip("\r\n").strip('"')
    if said.startswith("sep=") and len(said) == 5:
        head, before, mark = file.readline(), 1, said[4]
    else:
        mark = next((mark for mark in ",;\t" if mark in head), ",")
    reader = csv.DictReader(itertools.chain([head], file), strict=True, delimiter=mark)
    try:
        yield from _table(reader, name, before)
    except csv.Error as error:
        line = reader.reader.line_num + before
        raise ValueError(f"{name}, line {line}: {error}; quote each text once more") from None


def _table(reader, name: str, before: int) -> Iterator[tuple[int, dict]]:
    names = reader.fieldnames or ()
    if twice := sorted({column for column in names if names.count(column) > 1}):
        line = reader.line_num + before
        raise ValueError(f"{name}, line {line}: two columns are called {twice[0]!r}; rename one")
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(
                f"{name}, line {reader.line_num + before}: another number of columns than the "
                f"header; quote texts that hold the separator {reader.reader.dialect.delimiter!r}"
            )
        yield reader.line_num + before, row


def _jsonl(file, name: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line, object_pairs_hook=_named_once)
            except (ValueError, RecursionError) as error:
                said = getattr(error, "msg", None) or str(error)
                place = f" at character {error.pos + 1}" if hasattr(error, "pos") else ""
                raise ValueError(f"{name}, line {number}: no JSON object: {said}{place}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{name}, line {number}: not an object {{…}}")
            yield number, row


def _named_once(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands in it twice; remove one")
    return found


def _lines(file, name: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, {"text": line.strip()}


def _paragraphs(file, name: str) -> Iterator[tuple[int, dict]]:
    lines = []
    for number, line in enumerate(file, 1):
        if line.strip():
            lines.append(line.rstrip("\n"))
        elif lines:
            yield number - len(lines), {"text": "\n".join(lines)}
            lines = []
    if lines:
        yield number + 1 - len(lines), {"text": "\n".join(lines)}
