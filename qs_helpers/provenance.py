"""Where weights came from and what they run on, as a result records it.

versions     versions of Python and of the main libraries
environment  device, dtypes and versions
fingerprint  sha256 of a local file, and whether it was computed or is the Hub's own record
portable     the name of a source, without the place of this package on a machine
last_name    what a model is called: the last part of a repo's or a folder's name
"""

import hashlib
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["environment", "fingerprint", "last_name", "portable", "versions"]

LIBRARIES = (
    *("torch", "transformers", "huggingface_hub", "safetensors", "numpy", "pandas", "scipy"),
    *("scikit-learn", "matplotlib", "qs-helpers"),
)


def versions() -> dict[str, str]:
    """Versions of Python and of the main libraries, without importing them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def environment(device, dtype) -> dict:
    """What a scope on a torch device, with a model of a torch dtype, runs on, as plain JSON."""
    import torch  # here, so that a report that only lists versions starts at once

    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "sae_dtype": "float32",
        "versions": versions(),
    }


def fingerprint(path: Path) -> dict[str, str]:
    """{"sha256": 64 hex digits, "from": "hub" or "file"}.

    The Hub names the cached copy of a large file by its sha256, so that gigabytes need not be
    read again; "from" says which of the two it was.
    """
    blob = Path(path).resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return {"sha256": blob.name, "from": "hub"}
    with open(path, "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "from": "file"}


def portable(name: str) -> str:
    """A source's name without the place of this package on this machine."""
    root = Path(__file__).parent.parent
    return Path(name).relative_to(root).as_posix() if Path(name).is_relative_to(root) else name


def last_name(name: str) -> str:
    """What a model is called: the last part of a repo's or a folder's name."""
    parts = Path(name).parts
    return parts[-2] if parts[-1] == "model" and len(parts) > 1 else parts[-1]
