"""Rows of a file, read one after the other as they are needed."""

import csv
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
    with open(path, encoding="utf-8-sig", newline="" if suffix == ".csv" else None) as file:
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
        except (json.JSONDecodeError, csv.Error) as error:
            raise ValueError(f"{path.name}: {error}") from None


def _csv(file, name: str) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(file, strict=True)
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(
                f"{name}, line {reader.line_num}: another number of columns than "
                "the first line; quote texts that hold commas"
            )
        yield reader.line_num, row


def _jsonl(file, name: str) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"{name}, line {number}: not an object {{…}}")
            yield number, row


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
