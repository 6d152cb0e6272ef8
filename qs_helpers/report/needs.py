"""What a report needs of this machine and of the network, found out before it runs.

Nothing is downloaded here but the config of a model that is about to get SAEs. A server that takes
longer than a second to answer is left for later.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ..loading import hub
from ..loading.catalog import (
    BATCH_TOKENS,
    COMMUNITY,
    GROUPS,
    Group,
    Origin,
    layer_files,
    model_place,
    spans,
)
from ..loading.memory import (
    BFLOAT16_FLOPS,
    FLOAT32_FLOPS,
    free_bytes,
    gb,
    memory_plan,
    training_plan,
    way_out,
)
from ..presets import OUTPUT, SOURCES, dataset_name, dataset_parts, is_bundled
from .run import TRAIN

TIMEOUT = 1.0  # seconds for the Hub to answer


class Resources(NamedTuple):
    """`lines` say what is needed and what there is; `problems` what stands in the way."""

    lines: list[str]
    problems: list[str]


def check_access(origin: Origin | None, values: dict[str, dict[str, Any]]) -> Resources:
    """Whether everything that a run reads can be had, and how much is to be downloaded.

    origin: None where model and suite are yet to be made, or none is read, and only other models
    and texts are looked for; values: settings of each notebook. LAYERS decide which SAE files are
    needed, but for those that are to be trained; MODELS, MODEL and those of SOURCES may name
    other repos, datasets or files.
    """
    reading = {stem: v for stem, v in values.items() if stem != TRAIN}
    repos: dict = {}
    if origin is not None:
        repos |= {(str(origin.model), origin.model_revision): None}
        asked = _layers(reading), _layers(reading, neighbours=False)
        repos |= {(str(origin.sae), origin.sae_revision): asked}
    models = {m for settings in values.values() for m in settings.get("MODELS", [])}
    trained = {settings["MODEL"] for settings in values.values() if "MODEL" in settings}
    models |= {model for model in trained if not Path(model).is_absolute()}  # may be made first
    for model in sorted(models):
        if "/" in model and not (Path(model).is_absolute() and Path(model).exists()):
            repos.setdefault(hub.split_revision(model), None)
    named = [settings.get(name) or [] for settings in values.values() for name in SOURCES]
    texts = {text for value in named for text in ([value] if isinstance(value, str) else value)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda item: _repo(*item[0], *(item[1] or ())), repos.items()))
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
        lines.append(f"to download: {gb(missing)}; free on the disk: {gb(free)}")
        if missing > free:
            problems.append(
                f"{gb(missing)} are to be downloaded, and {gb(free)} are free on the disk: make "
                "room, set HF_HOME to another disk, or give fewer LAYERS"
            )
    return Resources(lines, problems)


def _layers(values: dict[str, dict[str, Any]], neighbours: bool = True) -> set[int] | None:
    """The layers that some notebook reads; None for all of them. neighbours: with those of the
    layer that 03 steers at, which it reads where the suite has them."""
    asked = [settings["LAYERS"] for settings in values.values() if "LAYERS" in settings]
    steer = values.get("03_steer", {})
    at = [steer["LAYER"]] if steer.get("LAYER", -1) >= 0 else steer.get("LAYERS", [])
    asked += [[n - 1, n, n + 1] if neighbours else [n] for n in at]
    return None if [] in asked else {layer for layers in asked for layer in layers}


class _Need(NamedTuple):
    """What one repo or dataset adds: a line, a problem, its name if it is out of reach, bytes."""

    line: str = ""
    problem: str = ""
    away: str = ""
    download: int = 0


def _repo(name: str, revision: str | None, layers=None, needed=None) -> _Need:
    """A model or suite. layers: those to download, of a suite, None for all; needed: those of them
    that must be there, likewise."""
    if Path(name).is_absolute() and Path(name).is_dir():
        return _Need()
    try:
        source = hub.open_source(name, revision, timeout=TIMEOUT)
        saes = layer_files(source.files)
    except ConnectionError as error:
        slow = "Timeout" in str(error)
        return _Need(line=f"{name}: not asked, the Hub is slow") if slow else _Need(away=name)
    except (OSError, ValueError) as error:
        return _Need(problem=str(error))
    if source.commit is None:  # a folder
        return _Need()
    if saes and (lacking := sorted({*(needed or ())} - saes.keys())):
        return _Need(
            problem=f"LAYERS has {lacking}, but {name} has SAEs of layers {spans([*saes])}"
        )
    if source.offline:
        return _Need(line=f"{name}: from the cache ({source.offline})")
    wanted = [file for layer, file in saes.items() if layers is None or layer in layers]
    others = [file for file in source.files if file not in saes.values()]
    if saes:
        others = [f for f in others if f == "config.json" or re.fullmatch(r"sae_L\d+_cfg\.json", f)]
    else:  # a model: its weights in one format only
        others = [f for f in others if f.endswith((".safetensors", ".json", ".txt", ".jinja"))]
    sizes = {file: source.files[file] for file in [*wanted, *others]}
    left = {f: n for f, n in sizes.items() if not (source.folder and (source.folder / f).exists())}
    whole, left = sum(sizes.values()), sum(left.values())
    return _Need(line=f"{name}: {gb(whole)}, of which {gb(whole - left)} are cached", download=left)


def _dataset(text: str) -> _Need:
    """A file or a dataset of the Hub."""
    name = dataset_name(text)
    if name is None:
        there = is_bundled(text) or Path(text).is_file()
        return _Need(problem="" if there else f"{text}: there is no such file")
    if importlib.util.find_spec("datasets") is None:
        return _Need(problem=f"{name} needs: pip install 'qs-helpers[data]'")
    try:
        reason = hub.ask_dataset(name, dataset_parts(text)[2], TIMEOUT)
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
    """What a preset needs of memory, against what is free; see `memory_plan`.

    device_free: free bytes of the device; by default of the first NVIDIA GPU if there is one, else
    of the host. A model or a suite of the Hub that is not in the catalog is not judged.
    """
    gpu = None if origin.device == "cpu" else _gpu_free()
    where, device = ("this machine", "cpu") if gpu is None else ("the GPU", "cuda")
    found = gpu if device_free is None else device_free
    free = free_bytes("cpu") if found is None else found
    on_cpu = gpu is None and origin.device != "mps"
    dtype = origin.dtype or ("float32" if on_cpu else "bfloat16")
    group, layers = origin.group, _layers(values) or None
    if group is None:
        if not (Path(origin.model).is_dir() and Path(origin.sae).is_dir()):
            return Resources([], [])
        try:
            model, sae = hub.open_source(origin.model), hub.open_source(origin.sae)
            group = hub.read_group(origin, model, sae, hub.read_suite(sae, origin))
        except (OSError, ValueError) as error:
            return Resources([], [str(error)])
    limits = {"device": device, "batch_tokens": origin.batch_tokens}
    layers = layers and layers & {*group.layers}  # a neighbour may not be there
    plan = memory_plan(group, layers, dtype, **limits)
    line = f"memory: {gb(plan.device)} needed, {gb(free)} free on {where}"
    if plan.device > free:
        return Resources([line], [f"{line}: {way_out(free, dtype, device, layers)}"])
    overlap = "08_benchmark_overlap"
    if not values.get(overlap, {}).get("RANDOM_MODELS"):
        return Resources([line], [])
    second = f"{overlap}: {gb(plan.model)} more for a model with random weights"
    fits = plan.device + plan.model <= free
    way = f"{second}, beside {gb(plan.device)}; {gb(free)} are free on {where}: RANDOM_MODELS 0"
    return Resources([line, second], [] if fits else [f"{way} leaves that control out"])


def check_training(values: dict[str, Any], scope: dict[str, Any], out: Path) -> Resources:
    """What notebook 10 needs of disk, memory and time, against what is free; see `training_plan`.

    values: its parameters; scope: the section of the preset's file; out: the folder of the suite,
    which may be yet to be made. Shards and checkpoints that lie there already are not needed again.
    Nothing is said of a model whose sizes cannot be had: yet to be made, or out of reach.
    """
    names = ("MODEL", "LAYERS", "D_SAE", "K", "TOKENS")
    if not all(name in values for name in names):
        return Resources([], [])
    model, layers, d_sae, k, tokens = (values[name] for name in names)
    if (group := _model_sizes(model)) is None:
        return Resources([], [])
    gpu = None if scope.get("device") == "cpu" else _gpu_free()
    where, device = ("this machine", "cpu") if gpu is None else ("the GPU", "cuda")
    on_cpu = gpu is None and scope.get("device") != "mps"
    dtype = scope.get("dtype") or ("float32" if on_cpu else "bfloat16")
    batch_tokens = scope.get("batch_tokens", BATCH_TOKENS)
    limits = {"device": device, "batch_tokens": batch_tokens}
    try:
        layers = layers or range(group.n_layers)
        plan = training_plan(group, layers, d_sae, k, tokens, dtype, **limits)
    except ValueError as error:
        return Resources([], [f"10_train_suite: {error}"])
    line = f"10_train_suite: {plan}"
    if gpu is not None or dtype == "bfloat16":
        pace = FLOAT32_FLOPS if dtype == "float32" else BFLOAT16_FLOPS
        line += f"; about {in_words(plan.hours(pace))} on an H100 (planned, not measured)"
    problems, free = [], shutil.disk_usage(_there(out)).free
    needed = plan.disk - sum(path.stat().st_size for path in _files(out))
    if needed > free:
        away = "OUT on another disk" if values.get(OUTPUT) else "OUT or QS_RUNS on another disk"
        problems.append(
            f"10_train_suite needs {gb(needed)} on the disk of {out}, and {gb(free)} are free "
            f"there: give fewer TOKENS or LAYERS, or {away}"
        )
    there = free_bytes("cpu") if gpu is None else gpu
    if plan.device > there:
        problems.append(
            f"10_train_suite needs {gb(plan.device)} of memory, of which the model takes "
            f"{gb(plan.model)}, and {gb(there)} are free on {where}: give a smaller D_SAE, a "
            "smaller batch_tokens in the preset's section scope:, or a smaller MODEL"
        )
    return Resources([line], problems)


def in_words(hours: float) -> str:
    """ "4 hours", or below two of them "90 minutes"."""
    minutes = max(1, round(60 * hours))
    if minutes < 120:
        return "1 minute" if minutes == 1 else f"{minutes} minutes"
    return f"{hours:.0f} hours"


def _model_sizes(model: str) -> Group | None:
    """Sizes of a model from its files, else from the catalog; None where neither has them."""
    try:
        source = hub.open_source(model_place(model), timeout=TIMEOUT)
        group = hub.model_group(source)
        if {*hub.weight_files(source)} <= source.files.keys():  # a cache may hold a part of them
            return group
    except (OSError, ValueError):  # who loads it will say why
        pass
    repo, known = hub.split_revision(model)[0], [*GROUPS.values(), *COMMUNITY.values()]
    return next((group for group in known if group.model_repo == repo), None)


def _files(out: Path) -> list[Path]:
    """What a training that was cut off has left in its folder."""
    found = [*out.glob("*"), *(out / "work").rglob("*")] if out.is_dir() else []
    return [path for path in found if path.is_file()]


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
    home = os.environ.get("HF_HOME") or os.path.join("~", ".cache", "huggingface")
    folder = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    return _there(Path(os.path.expanduser(folder)).absolute())  # as it is, where nobody is at home


def _there(folder: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())
