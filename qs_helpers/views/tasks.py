"""A scan as tasks on a disk that many machines share: a shard each, and whoever runs them.

    <folder>/tasks.json       keywords of the scope, layers, versions, and the shards
    <folder>/texts/3.jsonl    the texts of shard 3, one a line
    <folder>/shards-<name>/   a folder for each that is written, and why others failed
    <folder>/scan-<name>/     what `merge_tasks` makes of them: byte for byte that of `scan_corpus`

What datatrove runs (`pip install 'qs-helpers[scale]'`) may be run by anything that calls `run_task`
with every number below that of the shards.
"""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

from ..evidence.files import json_line, lines, plain, read_json, write_json, write_whole
from ..loading.scope import Scope, load_keywords, load_scope
from . import shards
from .scan import Scan, refuse_scan

EXECUTORS = {"local": "Local", "slurm": "Slurm", "ray": "Ray"}  # of datatrove


def write_tasks(
    scope, texts: Iterable[str], layers, folder: str | Path, chars: int = shards.SHARD_CHARS
) -> int:
    """Write texts, gone through once, and what to do with them; returns the number of shards.

    layers: as in `scan_corpus`. chars: of a shard at most; another number makes another scan, as
    the sample of contexts is drawn shard by shard. ValueError for a folder with other tasks.
    """
    layers, home, cut = shards.scan_layers(scope, layers), Path(folder), []
    known = (home / "tasks.json").is_file()
    for shard, own in shards.cut(texts, chars):
        if not known:
            path = home / "texts" / f"{len(cut)}.jsonl"
            write_whole(path, b"".join(map(json_line, own)))
        cut.append(shard)
    about = {"version": shards.VERSION, "scope": load_keywords(scope), "layers": layers}
    about |= {"fingerprint": scope.fingerprint(layers), "shards": cut}
    if known and read_tasks(home)[1].place != _work(home, plain(about)).place:
        raise ValueError(f"{home} holds the tasks of another scan; choose another folder")
    write_json(home / "tasks.json", about)
    return len(cut)


def read_tasks(folder: str | Path) -> tuple[dict, shards.Work]:
    """tasks.json, and the work that it describes. ValueError for a folder without tasks, and for
    those of another version of the helper."""
    path = Path(folder) / "tasks.json"
    about = read_json(path)
    if about.get("version") != shards.VERSION:
        said = f"of version {about['version']}" if about else "not there"
        way = f"version {shards.VERSION} is read; write the tasks into a new folder"
        raise ValueError(f"{path} is {said}, and {way}")
    return about, _work(Path(folder), about)


def _work(home: Path, about: dict) -> shards.Work:
    cut = [shards.Shard(**shard) for shard in about["shards"]]
    return shards.plan_work(home, about["fingerprint"], about["layers"], cut)


@lru_cache(maxsize=1)
def _loaded(keywords: str) -> Scope:
    return load_scope(**json.loads(keywords))


def run_task(folder: str | Path, number: int) -> None:
    """Write one shard, unless it is there. An error is noted beside the shards, and raised.

    ValueError where texts or weights are not those that the tasks were written for; MemoryError as
    in `scan_corpus`. The scope is kept for the next task of this process.
    """
    about, work = read_tasks(folder)
    if not 0 <= number < len(work.shards):
        raise ValueError(f"task {number!r} of {folder} is none; choose 0 to {len(work.shards) - 1}")
    shard, place = work.shards[number], work.places[number]
    place.parent.mkdir(exist_ok=True)
    with shards.failure_noted(shard, place):
        if place.exists():
            return shards.require_whole(place, work.layers)
        path = Path(folder) / "texts" / f"{number}.jsonl"
        texts = [json.loads(line) for _, line in lines(path)]
        if shards.digest(texts) != shard.digest:
            raise ValueError(f"{path} was changed; write the tasks into a new folder")
        scope = _loaded(json.dumps(about["scope"]))
        if plain(scope.fingerprint(work.layers)) != about["fingerprint"]:
            said = f"{scope.name} has other weights than those that {folder} was written for"
            raise ValueError(f"{said}; write the tasks into a new folder")
        refuse_scan(scope, work.layers)
        shards.write_shard(scope, texts, work.layers, shard, place)


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
    home, work = Path(folder).resolve(), read_tasks(folder)[1]
    left = [number for number, place in enumerate(work.places) if not place.exists()]
    if left and executor == "local" and workers == 1 and not options:
        for number in left:
            with suppress(Exception):
                run_task(home, number)
        _loaded.cache_clear()
    elif left:
        try:
            from datatrove import executor as executors
        except ImportError:
            raise ImportError("more workers need: pip install 'qs-helpers[scale]'") from None
        # datatrove knows tasks by their rank alone: another list needs another folder. What is done
        # the shards say; its marks would call a failed task complete.
        name = hashlib.sha256(json.dumps([work.place.name, left]).encode()).hexdigest()[:16]
        logs = home / "logs" / name
        write_json(logs / "tasks.json", left)
        step = partial(_step, str(home), str(logs / "tasks.json"))
        made = getattr(executors, f"{EXECUTORS[executor]}PipelineExecutor")
        about = {"tasks": len(left), "workers": workers, "skip_completed": False}
        made([step], logging_dir=str(logs), **about | options).run()
    if executor != "slurm":
        shards.require_all(work)


def _step(folder: str, left: str, _data, rank: int, _world_size: int) -> None:
    """What datatrove runs in a process of its own. An error would keep it from other tasks."""
    with suppress(Exception):
        run_task(folder, json.loads(Path(left).read_text("utf-8"))[rank])


def merge_tasks(folder: str | Path) -> Scan:
    """One scan of all shards, which may be deleted after it, with texts and logs. RuntimeError,
    which names them, if some are missing."""
    work = read_tasks(folder)[1]
    shards.merge(work)
    return Scan(work.place)
