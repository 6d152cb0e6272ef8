"""Small files of labelled texts."""

import csv
import json

import pytest


def rows(n=20, **more):
    """Texts, every second one toxic."""
    return [{"text": f"text number {i}", "toxic": i % 2, "language": "en"} | more for i in range(n)]


@pytest.fixture
def make():
    return rows


@pytest.fixture
def write(tmp_path):
    """write(rows, "mine.csv") -> the path of a .csv or .jsonl file in the test's folder."""

    def write(rows, name="mine.csv", encoding="utf-8"):
        path = tmp_path / name
        if path.suffix == ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding)
            return path
        with open(path, "w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write
