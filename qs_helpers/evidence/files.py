"""Files that are never half-written, and values that JSON can hold."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by renaming a complete one, making its folder where needed.

    A reader sees the old file or the new one, never half, whatever interrupts the write. OSError,
    and nothing left behind, where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(content)
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_json(path: Path, value: Any) -> None:
    """Write `plain(value)` as indented UTF-8 JSON, whole."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    # A lone half of a surrogate pair, from a broken character, becomes a JSON escape.
    write_whole(path, text.encode(errors="backslashreplace") + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document, or {} where the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def json_line(value: Any) -> bytes:
    """A value as one line of UTF-8 JSON; half a character becomes a JSON escape."""
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of the lines of a file of JSON lines, blank ones left out.

    Only "\\n" ends a line: texts may hold other separators, such as U+2028. A byte order mark, as
    editors put before a file, is no part of the first.
    """
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, line


def plain(value: Any) -> Any:
    """The value as JSON can hold it: nan and inf become words, arrays and tensors lists.

    Raises TypeError for a value that is none of number, text, list, mapping or array.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if value is None or type(value) in (str, int, bool, float):
        return value
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(
        f"{type(value).__name__} cannot be recorded: pass numbers, text, lists or dicts"
    )


def short(value: Any) -> str:
    """A value as short text: a float with three significant digits, or as a whole number."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
    return str(value)
