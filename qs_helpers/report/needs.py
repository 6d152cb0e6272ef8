"""What a report needs of this machine and of the network, found out before it runs.

Nothing is downloaded here. A server that takes longer than a second to answer is left for later.
"""

import importlib.util
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ..loading import catalog, hub
from ..loading.memory import group_bytes
from ..loading.origin import CACHE_BYTES, Origin, layer_files
from ..presets import dataset_name

TEXTS = ("DATA", "PROMPTS")  # parameters that name files or datasets
TIMEOUT = 1.0  # seconds for the Hub to answer


class Resources(NamedTuple):
    """`lines` say what is needed and what there is; `problems` what stands in the way."""

    lines: list[str]
    problems: list[str]


def check_access(origin: Origin, values: dict[str, dict[str, Any]]) -> Resources:
    """Whether everything that a run reads can be had, and how much is to be downloaded.

    values: settings of each notebook. LAYERS decide which SAE files are needed; MODELS, DATA and
    PROMPTS may name other repos, datasets or files.
    """
    layers = _layers(values)
    repos = {(str(origin.model), origin.model_revision): None}
    repos |= {(str(origin.sae), origin.sae_revision): layers}
    for model in {m for settings in values.values() for m in settings.get("MODELS", [])}:
        if "/" in model and not Path(model).exists():
            name, _, revision = model.partition("@")
            repos.setdefault((name, revision or None), None)
    named = [settings.get(name) or [] for settings in values.values() for name in TEXTS]
    texts = {text for value in named for text in ([value] if isinstance(value, str) else value)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: _repo(*item[0], item[1]), repos.items()))
        found += list(pool.map(_dataset, sorted(texts)))
    lines = [need.line for need in found if need.line]
    problems = [need.problem for need in found if need.problem]
    away = [need.away for need in found if need.away]
    if away:
        problems.append(
            f"the Hub cannot be reached, and its cache lacks {', '.join(away)}: connect once to "
            "download, check HF_ENDPOINT and HF_HUB_OFFLINE, or give local folders and files"
        )
    missing = sum(need.download for need in found)
    if missing:
        free = shutil.disk_usage(_cache_home()).free
        lines.append(f"to download: {_gb(missing)}; free on the disk: {_gb(free)}")
        if missing > free:
            problems.append(
                f"{_gb(missing)} are to be downloaded, and {_gb(free)} are free on the disk: make "
                "room, set HF_HOME to another disk, or give fewer LAYERS"
            )
    return Resources(lines, problems)


def _layers(values: dict[str, dict[str, Any]]) -> set[int] | None:
    """The layers that some notebook reads; None for all of them."""
    asked = [settings["LAYERS"] for settings in values.values() if "LAYERS" in settings]
    return None if [] in asked else {layer for layers in asked for layer in layers}


class _Need(NamedTuple):
    """What one repo or dataset adds: a line, a problem, its name if it is out of reach, bytes."""

    line: str = ""
    problem: str = ""
    away: str = ""
    download: int = 0


def _repo(name: str, revision: str | None, layers: set[int] | None) -> _Need:
    """A model or suite. layers: of a suite, None for all."""
    if Path(name).expanduser().is_dir():
        return _Need()
    try:
        source = hub.open_source(name, revision, timeout=TIMEOUT)
    except ConnectionError as error:
        slow = "Timeout" in str(error)
        return _Need(line=f"{name}: not asked, the Hub is slow") if slow else _Need(away=name)
    except (OSError, ValueError) as error:
        return _Need(problem=str(error))
    if source.offline:
        return _Need(line=f"{name}: from the cache ({source.offline})")
    saes = layer_files(source.files)
    wanted = [file for layer, file in saes.items() if layers is None or layer in layers]
    others = [file for file in source.files if file not in saes.values()]
    if not saes:  # a model: its weights in one format only
        others = [f for f in others if f.endswith((".safetensors", ".json", ".txt", ".jinja"))]
    sizes = {file: source.files[file] for file in [*wanted, *others]}
    left = {f: n for f, n in sizes.items() if not (source.folder and (source.folder / f).exists())}
    whole, left = sum(sizes.values()), sum(left.values())
    return _Need(
        line=f"{name}: {_gb(whole)}, of which {_gb(whole - left)} are cached", download=left
    )


def _dataset(text: str) -> _Need:
    """A file or a dataset of the Hub."""
    name = dataset_name(text)
    if name is None:
        there = Path(text).is_file()
        return _Need(problem="" if there else f"{text}: there is no such file")
    if importlib.util.find_spec("datasets") is None:
        return _Need(problem=f"{name} needs: pip install 'qs-helpers[data]'")
    try:
        reason = hub.ask_dataset(name, text.partition("@")[2] or None, TIMEOUT)
    except (OSError, ValueError) as error:
        return _Need(problem=str(error))
    if reason is None or "Timeout" in reason:
        return _Need(line=f"{name}: dataset, {'the Hub is slow' if reason else 'reachable'}")
    if (_cache_home() / f"datasets--{name.replace('/', '--')}").is_dir():
        return _Need(line=f"{name}: dataset, from the cache ({reason})")
    return _Need(away=name)


def check_memory(
    origin: Origin, values: dict[str, dict[str, Any]], device_free: int | None = None
) -> Resources:
    """What a preset needs of memory, against what is free.

    Model, the SAEs that are kept at once, one chunk of pre-activations, and float32 logits of one
    batch. device_free: free bytes of the device; by default of the first NVIDIA GPU if there is
    one, else of the host.
    """
    import psutil

    gpu = None if origin.device == "cpu" else _gpu_free()
    where = "the GPU" if gpu is not None else "this machine"
    free = device_free or gpu or psutil.virtual_memory().available
    dtype = origin.dtype or ("bfloat16" if gpu is not None else "float32")
    layers = _layers(values)
    if origin.group is not None:
        needed = group_bytes(origin.group, layers, dtype, origin.batch_tokens)
    else:
        needed = _folder_bytes(origin, layers, dtype)
    if not needed:
        return Resources([], [])
    line = f"memory: {_gb(needed)} needed, {_gb(free)} free on {where}"
    if needed <= free:
        return Resources([line], [])
    small = [name for name in catalog.GROUPS if group_bytes(name, layers, dtype) <= free]
    less = "bfloat16 halves the model, " if dtype == "float32" else ""
    way = f"{less}a smaller batch_tokens the logits; groups that fit: {', '.join(small) or 'none'}"
    return Resources([line], [f"{line}: {way}"])


def _folder_bytes(origin: Origin, layers: set[int] | None, dtype: str) -> int:
    """The same for local folders, without logits; 0 where they are repos. Weights are taken for
    bf16, as checkpoints usually are: a float32 checkpoint is counted twice, never half."""
    model, sae = Path(origin.model), Path(origin.sae)
    if not (model.is_dir() and sae.is_dir()):
        return 0
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    files = layer_files(path.name for path in sae.iterdir())
    sizes = [(sae / file).stat().st_size for n, file in files.items() if n in (layers or files)]
    kept = max(max(sizes, default=0), min(sum(sizes), CACHE_BYTES))
    return weights * catalog.DTYPE_BYTES[dtype] // 2 + kept


def _gpu_free() -> int | None:
    """Free bytes of the first NVIDIA GPU, asked of its driver: importing torch takes longer."""
    if shutil.which("nvidia-smi") is None:
        return None
    ask = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(ask, capture_output=True, text=True, timeout=5, check=True).stdout
        return int(shown.split()[0]) * 2**20
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None


def _cache_home() -> Path:
    """The folder of Hub downloads, or the nearest one above it that exists."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    while not folder.exists():
        folder = folder.parent
    return folder


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
