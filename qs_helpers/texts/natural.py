"""The natural sets: texts in five languages, written for this project (natural/README.md)."""

from collections.abc import Iterator
from pathlib import Path

from ..presets import nearest
from . import files
from .record import KINDS

FOLDER = Path(__file__).resolve().parents[1] / "natural"


def rows(kind: str, part: str) -> Iterator[tuple[str, dict]]:
    """("passages.jsonl, line 2", row) of each text of a kind; of a part, those with that label.

    The part "prose" is all passages but code, whose English names are no slips into English.
    ValueError for a kind or part that there is not.
    """
    kinds = sorted(kind for kind in KINDS if (FOLDER / f"{kind}.jsonl").is_file())
    if kind not in kinds:
        raise ValueError(f"natural has no {kind}; it has {', '.join(kinds)}")
    found = list(files.rows(FOLDER / f"{kind}.jsonl"))
    parts = {row["label"]: {row["label"]} for _, row in found if row["label"] not in KINDS[kind]}
    if "code" in parts:
        parts["prose"] = {*parts} - {"code"}
    if part and part not in parts:
        hint = nearest(part, parts) if parts.keys() - {""} else f"for {kind} say natural"
        raise ValueError(f"source 'natural:{part}': {hint}")
    yield from ((where, row) for where, row in found if not part or row["label"] in parts[part])
