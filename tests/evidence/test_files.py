"""Files are written whole or not at all, and hold plain values."""

import errno
import json
import os
import re

import numpy as np
import pytest
import torch

from qs_helpers.evidence.files import json_line, lines, plain, short, write_json, write_whole


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(
    tmp_path, monkeypatch, step, number
):
    path = tmp_path / "a.txt"
    write_whole(path, b"old")
    whole = getattr(type(path), step)

    def full(self, *rest):
        if step == "write_bytes":
            whole(self, b"ne")  # as much as there was room for
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(type(path), step, full)
        with pytest.raises(OSError, match=re.escape(f"{os.strerror(number)}: '{path}'")):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.txt"]


def test_plain_and_short_values(tmp_path):
    assert plain({1: (np.int64(2), np.bool_(True), None)}) == {"1": [2, True, None]}
    assert plain(torch.tensor([1.5, float("inf")])) == [1.5, "inf"]
    with pytest.raises(TypeError, match="object cannot be recorded: pass numbers, text"):
        plain(object())
    assert [short(x) for x in (0.012345, 123456.7, 3, "a", True)] == [
        *("0.0123", "123,457", "3", "a", "True")
    ]
    write_json(tmp_path / "x.json", {"token": "half \udce4"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"token": "half \udce4"}


@pytest.mark.parametrize(
    "text", ["a\u2028b", "a\x85b", "a\nb", "a\r\nb", "\ud800", "\ufeff", "\x1c"]
)
def test_a_value_is_one_line(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + json_line({"t": text}) + b"\n \r\n" + json_line([text]))
    assert [(n, json.loads(line)) for n, line in lines(path)] == [(2, {"t": text}), (5, [text])]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path, umask):
    if os.name == "nt":
        pytest.skip("Windows has no umask")
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "a" / "x", b"")
    finally:
        os.umask(before)
    modes = [p.stat().st_mode & 0o777 for p in (tmp_path / "a", tmp_path / "a" / "x")]
    assert modes == [0o777 & ~umask, 0o666 & ~umask]
