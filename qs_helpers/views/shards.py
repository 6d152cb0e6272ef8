"""A corpus in shards: cut by its texts, each written whole or not at all, merged in their order.

A shard is a scan of neighbouring texts, numbered from 0: a function of them, of the weights and of
the layers. Who writes it, when and beside which others makes no difference, so one process, many,
and one that was killed and went on end with the same bytes. That holds on machines that compute the
same: other GPUs, another dtype or number of threads round differently.
"""

import hashlib
import json
import operator
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..evidence.files import read_json, write_json
from ..forward import NO_TEXTS, activations, checked, each
from .tables import Table

VERSION = 3  # of the files and of what they hold; a change makes old scans and shards unread
SHARD_CHARS = 1_000_000  # of a shard at most, or one text; 250,000 tokens of English: docs/scale.md
NAMED = 5  # shards that an error names


class Shard(NamedTuple):
    """Numbers of its first and last text in the corpus, and the sha256 of its texts."""

    first: int
    last: int
    digest: str


class Work(NamedTuple):
    """A scan to be made: of which layers and shards, the folder of each shard, that of the scan."""

    layers: list[int]
    shards: list[Shard]
    places: list[Path]
    place: Path


def cut(texts: Iterable[str], chars: int = SHARD_CHARS) -> Iterator[tuple[Shard, list[str]]]:
    """Neighbouring texts of at most `chars` characters in all, or one text, until none is left.

    ValueError if there are none, or for one that is empty, no string or half a character.
    """
    own, size, first = [], 0, 0
    for number, text in enumerate(each(texts)):
        checked([text], number)
        if own and size + len(text) > chars:
            yield Shard(first, number - 1, digest(own)), own
            own, size, first = [], 0, number
        own.append(text)
        size += len(text)
    if not own:
        raise ValueError(NO_TEXTS)
    yield Shard(first, number, digest(own)), own


def digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(t.encode()).digest() for t in texts)).hexdigest()


def scan_layers(scope, layers) -> list[int]:
    """Layers to scan, sorted; None: all with an SAE. ValueError for none."""
    layers = sorted({operator.index(n) for n in (scope.layers if layers is None else layers)})
    if not layers:
        raise ValueError("layers is empty; give at least one, or None for all")
    return layers


def plan_work(home: Path, fingerprint: dict, layers: list[int], shards: list[Shard]) -> Work:
    """The work in a folder. Scan and shards are called by a hash of all that goes in; equal shards
    share a folder."""
    place = home / f"scan-{_name(fingerprint, layers, shards)}"
    parts = home / place.name.replace("scan-", "shards-")
    places = [parts / _name(fingerprint, layers, [shard]) for shard in shards]
    return Work(layers, shards, places, place)


def _name(fingerprint: dict, layers: list[int], shards: list[Shard]) -> str:
    what = [VERSION, layers, fingerprint, [shard.digest for shard in shards]]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def require_whole(place: Path, layers: Sequence[int]) -> None:
    """ValueError for the folder of a scan or a shard from which something was taken away."""
    names = ["scan.json", "ids.bin", "ends.bin", *(f"layer{layer}.npz" for layer in layers)]
    if lacking := [name for name in names if not (place / name).is_file()]:
        raise ValueError(f"{place} lacks {', '.join(lacking)}: delete the folder, and run again")


def write_shard(scope, texts: list[str], layers: list[int], shard: Shard, place: Path) -> None:
    """Scan the texts of a shard into the folder `place`, which appears when it is whole.

    One that is there already, or that another process finishes first, is taken as it is.
    """
    if place.exists():
        return require_whole(place, layers)
    with _appearing(place, layers) as made:
        seed = int(shard.digest[:16], 16)  # of the sample, which thus does not depend on the layers
        tables = {layer: Table(scope.d_sae, seed) for layer in layers}
        n_tokens = n_texts = 0
        with open(made / "ids.bin", "wb") as ids, open(made / "ends.bin", "wb") as ends:
            for part in activations(scope, texts, layers):
                tables[part.layer].add(part)
                if part.layer == layers[0]:
                    ids.write(part.ids.numpy().astype(np.int32).tobytes())
                    counts = np.bincount(part.text.numpy() - n_texts)
                    ends.write((n_tokens + counts.cumsum()).astype(np.int64).tobytes())
                    n_tokens, n_texts = n_tokens + len(part.ids), n_texts + len(counts)
        for layer, table in tables.items():
            np.savez(made / f"layer{layer}.npz", **table.arrays())
        sinks = {str(layer): table.sinks for layer, table in tables.items()}
        _write_about(made, layers, n_texts, n_tokens, scope.d_sae, sinks)


def merge(work: Work) -> None:
    """One scan of whole shards, in the order of the corpus.

    Counts are added exactly, sums in that order, and of equal contexts the earlier text is kept.
    Of memory it takes one layer's part of a scan's tables. RuntimeError where a shard is missing.
    """
    if work.place.exists():
        return require_whole(work.place, work.layers)
    require_all(work)
    abouts = [read_json(place / "scan.json") for place in work.places]
    with _appearing(work.place, work.layers) as made:
        n_tokens = 0
        with open(made / "ids.bin", "wb") as ids, open(made / "ends.bin", "wb") as ends:
            for place, about in zip(work.places, abouts, strict=True):
                with open(place / "ids.bin", "rb") as own:
                    shutil.copyfileobj(own, ids)
                ends.write((n_tokens + np.fromfile(place / "ends.bin", np.int64)).tobytes())
                n_tokens += about["n_tokens"]
        for layer in work.layers:
            table = Table(abouts[0]["d_sae"])
            for shard, place in zip(work.shards, work.places, strict=True):
                try:
                    table.take(place / f"layer{layer}.npz", shard.first)
                except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                    broken = f"layer{layer}.npz of {place} does not read ({error})"
                    raise ValueError(f"{broken}: delete the folder, and run again") from None
            np.savez(made / f"layer{layer}.npz", **table.arrays())
        sinks = {str(n): sum(about["n_sinks"][str(n)] for about in abouts) for n in work.layers}
        n_texts = work.shards[-1].last + 1
        _write_about(made, work.layers, n_texts, n_tokens, abouts[0]["d_sae"], sinks)


@contextmanager
def failure_noted(shard: Shard, place: Path) -> Iterator[None]:
    """Count in a file beside a shard how often writing it failed, and why; the error goes on."""
    record = place.with_name(f"{place.name}.failed.json")
    try:
        yield
    except Exception as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        # Within a shard texts are numbered from 0.
        said = re.sub(r"^text (\d+)\b", lambda n: f"text {shard.first + int(n[1])}", said)
        times = read_json(record).get("times", 0) + 1
        write_json(record, {"times": times, "error": f"{type(error).__name__}: {said}"})
        raise
    record.unlink(missing_ok=True)


def require_all(work: Work) -> None:
    """RuntimeError, in one line, that names the shards which are missing, and why; ValueError for
    one from which something was taken away."""
    said = []
    for number, (shard, place) in enumerate(zip(work.shards, work.places, strict=True)):
        if place.exists():
            require_whole(place, work.layers)
            continue
        failed = read_json(place.with_name(f"{place.name}.failed.json"))
        times = {0: "", 1: "once", 2: "twice"}.get(n := failed.get("times", 0), f"{n} times")
        why = f"failed {times}: {failed['error']}" if failed else "was not run to its end"
        said.append(f"shard {number} (texts {shard.first} to {shard.last}) {why}")
    if said:
        rest = f"; and {len(said) - NAMED} more" if len(said) > NAMED else ""
        raise RuntimeError(
            f"{len(said)} of {len(work.shards)} shards are missing, and nothing is merged: "
            f"{'; '.join(said[:NAMED])}{rest}; the others are kept: run again for these only"
        )


@contextmanager
def _appearing(place: Path, layers: Sequence[int]) -> Iterator[Path]:
    """A folder to write into, which becomes `place` at the end, at once; if another process was
    there first, what it made stays."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".half-") as half:
        made = Path(half) / "scan"
        made.mkdir()  # with the permissions of any other folder: the one around it is private
        yield made
        try:
            made.rename(place)
        except OSError:
            if not place.exists():
                raise
            require_whole(place, layers)


def _write_about(folder: Path, layers, n_texts: int, n_tokens: int, d_sae: int, sinks) -> None:
    about = {"layers": layers, "n_texts": n_texts, "n_tokens": n_tokens, "d_sae": d_sae}
    write_json(folder / "scan.json", about | {"n_sinks": sinks})
