"""Wheels: whole where another process looks for one, or not there."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from qs_helpers import wheels

BYTES = b"a whole wheel"
MADE = wheels.Package(
    "toy", "1.0", "toy-1.0.whl", hashlib.sha256(BYTES).hexdigest(), "", "", "", "", len(BYTES)
)


def pip(folder: Path, seen: list, fails: bool):
    """What stands in for pip: it writes half of the wheel, looks who is there, and goes on."""

    def run(command, **_):
        into = Path(command[command.index("--dest") + 1])
        (into / MADE.wheel).write_bytes(BYTES[:5])
        seen.append((folder / MADE.wheel).exists())
        if not fails:
            (into / MADE.wheel).write_bytes(BYTES)
        return subprocess.CompletedProcess(command, int(fails), "", "ERROR: no network")

    return run


@pytest.mark.parametrize("fails", [False, True])
def test_half_a_wheel_is_never_seen_in_the_folder(tmp_path, monkeypatch, fails):
    seen = []
    monkeypatch.setattr(wheels.subprocess, "run", pip(tmp_path, seen, fails))
    if fails:
        with pytest.raises(
            ConnectionError, match=f"put toy-1.0.whl from elsewhere into {tmp_path};"
        ):
            wheels.fetch_wheel(MADE, tmp_path)
        assert list(tmp_path.iterdir()) == []
    else:
        assert wheels.fetch_wheel(MADE, tmp_path).read_bytes() == BYTES
        assert [path.name for path in tmp_path.iterdir()] == [MADE.wheel]
        wheels.fetch_wheel(MADE, tmp_path)  # is there, so pip is not asked again
    assert seen == [False]
