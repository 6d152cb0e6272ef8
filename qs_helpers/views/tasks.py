"""A scan as tasks on a disk that many machines share: a shard each, and whoever runs them.

    <folder>/tasks.json      model, SAEs, layers, versions, and the shards
    <folder>/texts/3.jsonl   the texts of shard 3, one a line
    <folder>/shards/         a folder for each that is written, and why others failed
    <folder>/scan-<name>/    what `merge_tasks` makes of them: byte for byte that of `scan_corpus`

What is run by datatrove (`pip install 'qs-helpers[scale]'`) may be run by anything that calls
`run_task` with every number below that of the shards.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from ..evidence.files import json_line, lines, plain, read_json, write_json, write_whole
from ..loading.scope import Scope, load_keywords, load_scope
from .scan import Scan, refuse_scan
from .shards import (
    SHARD_CHARS,
    VERSION,
    Shard,
    cut,
    digest,
    failure_noted,
    merge,
    missing,
    require_all,
    require_whole,
    scan_layers,
    scan_name,
    shard_places,
    write_shard,
)

EXECUTORS = {"local": "Local", "slurm": "Slurm", "ray": "Ray"}  # of datatrove


class Tasks(NamedTuple):
    """tasks.json: keywords of `load_scope`, layers, what the weights must be, shards, places."""

    scope: dict
    layers: list[int]
    fingerprint: dict
    shards: list[Shard]
    places: list[Path]
    place: Path  # of the scan


def write_tasks(
    scope, texts: Iterable[str], layers, folder: str | Path, chars: int = SHARD_CHARS
) -> int:
    """Write texts, gone through once, and what to do with them; returns the number of shards.

    layers: as in `scan_corpus`. chars: of a shard at most; other than by default the scan is
    another, since the sample of contexts is drawn shard by shard. A scope whose weights a machine
    cannot hold can be loaded in no other way: write the tasks where it fits. ValueError for a
    folder that holds the tasks of another scan.
    """
    layers, home, shards = scan_layers(scope, layers), Path(folder), []
    known = (home / "tasks.json").is_file()
    for shard, own in cut(texts, chars):
        if not known:
            content = b"".join(map(json_line, own))
            write_whole(home / "texts" / f"{len(shards)}.jsonl", content)
        shards.append(shard)
    about = {"version": VERSION, "scope": load_keywords(scope), "layers": layers}
    about |= {"fingerprint": scope.fingerprint(layers), "shards": shards}
    if known and read_tasks(home).place != _tasks(home, plain(about)).place:
        raise ValueError(f"{home} holds the tasks of another scan; choose another folder")
    write_json(home / "tasks.json", about)
    return len(shards)


def read_tasks(folder: str | Path) -> Tasks:
    """ValueError for a folder without tasks, and for those of another version of the helper."""
    about = read_json(Path(folder) / "tasks.json")
    if about.get("version") != VERSION:
        said = f"of version {about['version']}" if about else "not there"
        raise ValueError(
            f"{Path(folder) / 'tasks.json'} is {said}, and version {VERSION} is read; write the "
            "tasks into a new folder"
        )
    return _tasks(Path(folder), about)


def run_task(folder: str | Path, number: int) -> None:
    """Write one shard, unless it is there. An error is noted beside the shards, and raised.

    ValueError where texts or weights are not those that the tasks were written for; MemoryError as
    in `scan_corpus`. The scope is kept for the next task of this process.
    """
    tasks = read_tasks(folder)
    if not 0 <= number < len(tasks.shards):
        raise ValueError(
            f"task {number!r} of {folder} is none; choose 0 to {len(tasks.shards) - 1}"
        )
    shard, place, layers = tasks.shards[number], tasks.places[number], tasks.layers
    place.parent.mkdir(exist_ok=True)
    with failure_noted(shard, place):
        if place.exists():
            return require_whole(place, layers)
        path = Path(folder) / "texts" / f"{number}.jsonl"
        texts = [json.loads(line) for _, line in lines(path)]
        if digest(texts) != shard.digest:
            raise ValueError(f"{path} was changed; write the tasks into a new folder")
        scope = _loaded(json.dumps(tasks.scope))
        if plain(scope.fingerprint(layers)) != tasks.fingerprint:
            raise ValueError(
                f"{scope.name} has other weights than those that {folder} was written for; write "
                "the tasks into a new folder"
            )
        refuse_scan(scope, layers)
        write_shard(scope, texts, layers, shard, place)


def run_tasks(folder: str | Path, workers: int = 1, executor: str = "local", **options) -> None:
    """Run the tasks whose shards are not there yet, and wait, unless "slurm" has queued them.

    executor  "local": processes of this machine, each with a scope of its own; 1 without options
              is a plain loop. "slurm", "ray": so many tasks at a time, -1 for no limit
    options   of datatrove's executor, such as time, partition and gpus_per_task of "slurm"

    A task that fails stops no other. RuntimeError at the end names the shards that are missing, and
    why (after "slurm" `merge_tasks` does). ImportError without datatrove. Set OMP_NUM_THREADS to
    the cores of a worker: left alone, each takes all, and sums are rounded as their number has it.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"executor is {executor!r}; choose from {', '.join(EXECUTORS)}")
    tasks = read_tasks(folder)
    left = missing(tasks.places)
    if left and executor == "local" and workers == 1 and not options:
        for number in left:
            _run_quietly(folder, number)
        _loaded.cache_clear()
    elif left:
        try:
            from datatrove import executor as executors
        except ImportError:
            raise ImportError("more workers need: pip install 'qs-helpers[scale]'") from None
        # datatrove knows tasks by their rank alone: another list needs another folder. What is done
        # the shards say; its marks would call a failed task complete.
        name = hashlib.sha256(json.dumps([tasks.place.name, left]).encode()).hexdigest()[:16]
        logs = Path(folder).resolve() / "logs" / name
        write_json(logs / "tasks.json", left)
        step = partial(_step, str(Path(folder).resolve()), str(logs / "tasks.json"))
        made = getattr(executors, f"{EXECUTORS[executor]}PipelineExecutor")
        about = {"tasks": len(left), "workers": workers, "skip_completed": False}
        made([step], logging_dir=str(logs), **about | options).run()
    if executor != "slurm":
        require_all(tasks.shards, tasks.places, tasks.layers)


def merge_tasks(folder: str | Path) -> Scan:
    """One scan of all shards; RuntimeError, which names them, if some are missing.

    Shards, texts and logs may be deleted after it."""
    tasks = read_tasks(folder)
    merge(tasks.shards, tasks.places, tasks.layers, tasks.place)
    return Scan(tasks.place)


def _tasks(home: Path, about: dict) -> Tasks:
    scope, layers, fingerprint = about["scope"], about["layers"], about["fingerprint"]
    shards = [Shard(**shard) for shard in about["shards"]]
    places = shard_places(home / "shards", fingerprint, layers, shards)
    place = home / f"scan-{scan_name(fingerprint, layers, shards)}"
    return Tasks(scope, layers, fingerprint, shards, places, place)


@lru_cache(maxsize=1)
def _loaded(keywords: str) -> Scope:
    return load_scope(**json.loads(keywords))


def _run_quietly(folder: str | Path, number: int) -> None:
    """An error that left a task would keep datatrove from starting the others."""
    with suppress(Exception):
        run_task(folder, number)


def _step(folder: str, left: str, _data, rank: int, _world_size: int) -> None:
    """What datatrove runs, in a process of its own."""
    _run_quietly(folder, json.loads(Path(left).read_text("utf-8"))[rank])
