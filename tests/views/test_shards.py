"""A scan in shards: the same bytes whoever writes them, whatever failed or was killed before."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import qs_helpers as qs
from qs_helpers import forward
from qs_helpers.loading import memory
from qs_helpers.tiny import corpus
from qs_helpers.views import shards, tasks
from qs_helpers.views.tables import Table, saved_rows

CHARS = 1200  # of a shard of these tests
LAYERS = [1, 4]


@pytest.fixture(scope="module")
def texts():
    return [d.text for d in corpus.documents(60, "discovery")]


@pytest.fixture(scope="module")
def whole(scope, texts, tmp_path_factory):
    """A folder of tasks that were run and merged in one process."""
    folder = tmp_path_factory.mktemp("tasks")
    assert qs.views.write_tasks(scope, texts, LAYERS, folder, CHARS) == len(cut(texts)) > 4
    qs.views.run_tasks(folder)
    return folder, qs.views.merge_tasks(folder)


def cut(texts, chars=CHARS):
    return [shard for shard, _ in shards.cut(texts, chars)]


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def copied(whole, folder):
    """The tasks of `whole`, none of which is run yet."""
    for name in ("tasks.json", "texts"):
        old, new = whole[0] / name, folder / name
        shutil.copytree(old, new) if old.is_dir() else shutil.copy(old, new)
    return folder


def work_of(folder):
    return tasks.read_tasks(folder)[1]


def written(folder):
    return {place.name for place in Path(folder).glob("shards-*/*") if place.is_dir()}


# ---- cutting


def test_the_cut_depends_on_the_texts_alone(texts):
    parts = list(shards.cut(texts, CHARS))
    assert [text for _, own in parts for text in own] == texts
    for shard, own in parts:
        assert own == texts[shard.first : shard.last + 1]
        assert sum(map(len, own)) <= CHARS
    for (_, own), (_, after) in zip(parts, parts[1:], strict=False):
        assert sum(map(len, own)) + len(after[0]) > CHARS
    assert [shard for shard, _ in shards.cut(iter(texts), CHARS)] == [shard for shard, _ in parts]
    # A text longer than a shard is one, and neighbours that fit are not parted.
    sizes = [[len(t) for t in own] for _, own in shards.cut(["a" * n for n in (3, 9, 1, 4)], 5)]
    assert sizes == [[3], [9], [1, 4]]
    assert len(cut(texts, shards.SHARD_CHARS)) == 1


def test_a_shard_is_named_by_all_that_went_in(scope, texts, monkeypatch):
    first, second = cut(texts)[:2]

    def name(shard, layers=LAYERS, weights=scope):
        work = shards.plan_work(Path(), weights.fingerprint(layers), layers, [shard])
        return work.places[0].name

    names = {name(first), name(second), name(first, [1]), name(first._replace(digest="0"))}
    names.add(name(first, weights=qs.load_scope("tiny-sft")))
    monkeypatch.setattr(shards, "VERSION", shards.VERSION + 1)
    assert len(names | {name(first)}) == 6
    moved = shards.Shard(7, 9, first.digest)  # the same texts, elsewhere in a corpus
    assert name(moved) == name(first)


# ---- merging


def test_one_process_and_a_loop_over_tasks_give_the_same_bytes(
    scope, texts, whole, tmp_path, monkeypatch
):
    _, found = whole
    monkeypatch.setattr(shards.cut, "__defaults__", (CHARS,))
    once = qs.views.scan_corpus(scope, texts, LAYERS, tmp_path)
    assert once.folder.name == found.folder.name
    assert contents(once.folder) == contents(found.folder)
    assert [p.name for p in tmp_path.iterdir()] == [once.folder.name], "shards are gone"


def test_a_merge_adds_up(scope, texts, whole):
    folder, found = whole
    parts = work_of(folder)
    scans = [qs.views.Scan(place) for place in parts.places]
    assert sum(scan.n_tokens for scan in scans) == found.n_tokens
    assert [found.ids(n).tolist() for n in range(len(texts))] == scope.ids(texts)
    feature = int(found.stats(4)["fired"].argmax())
    for kind, size in (("fired", None), ("histogram", None), ("top", 20), ("sample", 100)):
        apart = [scan.stats(4)[kind] for scan in scans]
        merged = found.stats(4)[kind]
        if size is None:
            assert (merged == sum(apart)).all()
            continue
        rows = [
            (-row["key"], int(row["text"]) + shard.first, int(row["position"]))
            for part, shard in zip(apart, parts.shards, strict=True)
            for row in part[part["feature"] == feature]
        ]
        kept = merged[merged["feature"] == feature]
        columns = (-kept["key"], kept["text"], kept["position"])
        assert list(zip(*columns, strict=True)) == sorted(rows)[:size]
    for row in found.top(4, feature):
        assert texts[row["text"]], "numbers are those of the corpus"
        assert found.ids(int(row["text"]))[row["position"]] >= 0


def test_a_scan_in_shards_finds_what_a_scan_in_one_does(scope, texts, whole, tmp_path):
    _, found = whole
    once = qs.views.scan_corpus(scope, texts, LAYERS, tmp_path)  # one shard
    for layer in LAYERS:
        many, one = found.stats(layer), once.stats(layer)
        # Padding changes sums in the last bits, so a feature at the edge of the TopK may differ.
        assert np.abs(many["fired"] - one["fired"]).sum() <= 4
        feature = int(one["fired"].argmax())
        strongest = found.top(layer, feature)["value"]
        assert strongest == pytest.approx(once.top(layer, feature)["value"], rel=1e-4)


def test_the_sample_is_that_of_the_texts(scope, texts, whole, tmp_path):
    """Other layers, or other weights, do not change which tokens are drawn."""
    folder, found = whole
    shard, own = next(shards.cut(texts, CHARS))
    place = tmp_path / "alone"
    shards.write_shard(scope, own, [4], shard, place)
    with np.load(place / "layer4.npz") as alone:
        part = work_of(folder).places[0]
        assert alone["sample"].tobytes() == qs.views.Scan(part).stats(4)["sample"].tobytes()


def test_a_merge_takes_no_more_memory_than_planned(tmp_path):
    """The worst case: every feature has more contexts than are kept, and all keys rise."""
    d_sae, n, cuts = 8192, 110, 3
    for number in range(cuts):
        table = Table(d_sae)
        for text in range(n):
            values = torch.full((1, d_sae), 1.0 + text + n * number)
            acts = qs.SparseActs(values, torch.arange(d_sae)[None])
            keep, at = torch.ones(1, dtype=torch.bool), torch.tensor([text])
            table.add(forward.Part(0, acts, keep, at, at * 0, at))
        table.sample._kept["key"] = table.sample.rows()["value"]
        place = tmp_path / str(number)
        place.mkdir()
        np.savez(place / "layer0.npz", **table.arrays())
        for name in ("ids.bin", "ends.bin"):
            np.zeros(0, np.int64).tofile(place / name)
        shards._write_about(place, [0], n, n, d_sae, {"0": 0})
    places = [tmp_path / str(number) for number in range(cuts)]
    parts = [shards.Shard(number * n, number * n + n - 1, "") for number in range(cuts)]
    del table
    tracemalloc.start()
    shards.merge(shards.Work([0], parts, places, tmp_path / "merged"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    planned = d_sae * (memory.TABLE_BYTES + memory.MERGE_BYTES)
    assert 0.5 * planned < peak < planned
    rows = np.concatenate(list(saved_rows(tmp_path / "merged" / "layer0.npz", "sample", 1000)))
    assert len(rows) == 100 * d_sae and rows["text"].min() >= (cuts - 1) * n


# ---- what was interrupted, failed or taken away


KILLED = """
import os, signal, sys
import qs_helpers as qs
from qs_helpers.tiny import corpus
from qs_helpers.views import shards
shards.cut.__defaults__ = (int(sys.argv[2]),)
write, done = shards.write_shard, []
def killed(scope, own, layers, shard, place):
    if len(done) == 3:
        shards.activations = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
    write(scope, own, layers, shard, place)
    done.append(place)
shards.write_shard = killed
texts = [d.text for d in corpus.documents(60, "discovery")]
qs.views.scan_corpus(qs.load_scope("tiny"), texts, [1, 4], sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_scan_goes_on_and_ends_with_the_same_bytes(
    scope, texts, whole, tmp_path, monkeypatch
):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(CHARS)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    (parts,) = tmp_path.glob("shards-*")
    assert len([p for p in parts.iterdir() if not p.name.startswith(".")]) == 3
    assert len(list(parts.glob(".half-*"))) == 1, "killed in the middle of a shard"
    assert not list(tmp_path.glob("scan-*"))
    passes, once = [], shards.activations
    monkeypatch.setattr(shards, "activations", lambda *a: passes.append(1) or once(*a))
    monkeypatch.setattr(shards.cut, "__defaults__", (CHARS,))
    found = qs.views.scan_corpus(scope, texts, LAYERS, tmp_path)
    assert len(passes) == len(cut(texts)) - 3
    assert contents(found.folder) == contents(whole[1].folder)
    assert [p.name for p in tmp_path.iterdir()] == [found.folder.name]


@pytest.fixture
def poisoned(scope, texts):
    """Texts of which the one numbered 20 is longer than the model can read."""
    return [*texts[:20], "the cook " * 600, *texts[20:]]


def test_a_shard_that_fails_stops_no_other_and_is_named(
    scope, texts, poisoned, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards.cut, "__defaults__", (CHARS,))
    (bad,) = (n for n, shard in enumerate(cut(poisoned)) if shard.first <= 20 <= shard.last)
    shard, n = cut(poisoned)[bad], len(cut(poisoned))
    message = (
        rf"1 of {n} shards are missing, and nothing is merged: shard {bad} \(texts {shard.first} "
        rf"to {shard.last}\) failed %s: ValueError: text 20 has \d+ tokens; split it.* run again"
    )
    with pytest.raises(RuntimeError, match=message % "once"):
        qs.views.scan_corpus(scope, poisoned, LAYERS, tmp_path)
    (parts,) = tmp_path.iterdir()
    assert len([p for p in parts.iterdir() if p.is_dir()]) == n - 1
    passes, once = [], shards.activations
    monkeypatch.setattr(shards, "activations", lambda *a: passes.append(1) or once(*a))
    with pytest.raises(RuntimeError, match=message % "twice"):
        qs.views.scan_corpus(scope, poisoned, LAYERS, tmp_path)
    with pytest.raises(RuntimeError, match=message % "3 times"):
        qs.views.scan_corpus(scope, poisoned, LAYERS, tmp_path)
    assert len(passes) == 2, "only the one that failed was tried again"
    # What failed for a reason of the machine is forgotten when it succeeds.
    monkeypatch.setattr(scope, "max_tokens", 4096)
    monkeypatch.setattr(shards, "activations", once)
    found = qs.views.scan_corpus(scope, poisoned, LAYERS, tmp_path)
    assert found.n_texts == len(poisoned)
    assert [p.name for p in tmp_path.iterdir()] == [found.folder.name]


def test_many_failures_are_counted_and_some_named(whole, tmp_path, monkeypatch):
    folder = copied(whole, tmp_path)
    n = len(work_of(folder).shards)

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr(shards, "write_shard", fail)
    with pytest.raises(RuntimeError) as caught:
        qs.views.run_tasks(folder)
    said = str(caught.value)
    assert said.startswith(f"{n} of {n} shards are missing") and "\n" not in said
    assert f"failed once: RuntimeError: RuntimeError; and {n - shards.NAMED} more; " in said
    with pytest.raises(RuntimeError, match=f"{n} of {n} shards are missing"):
        qs.views.merge_tasks(folder)


def test_nothing_is_merged_before_all_is_there(whole, tmp_path):
    folder = copied(whole, tmp_path)
    for number in (0, 2):
        qs.views.run_task(folder, number)
    with pytest.raises(RuntimeError, match=r"shard 1 \(texts \d+ to \d+\) was not run to its end"):
        qs.views.merge_tasks(folder)
    assert len(written(folder)) == 2 and not list(folder.glob("scan-*"))


def test_a_folder_from_which_something_was_taken_is_named(scope, texts, whole, tmp_path):
    folder = copied(whole, tmp_path)
    for place, copy in zip(work_of(whole[0]).places, work_of(folder).places, strict=True):
        shutil.copytree(place, copy)
    place = work_of(folder).places[1]
    (place / "layer4.npz").write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=f"layer4.npz of .*{place.name} does not read .*: delete"):
        qs.views.merge_tasks(folder)
    (place / "layer4.npz").unlink()
    for action in (qs.views.merge_tasks, qs.views.run_tasks):
        with pytest.raises(ValueError, match=f"{place.name} lacks layer4.npz: delete the folder"):
            action(folder)
    with pytest.raises(ValueError, match=f"{place.name} lacks layer4.npz"):
        qs.views.run_task(folder, 1)
    shutil.rmtree(place)
    qs.views.run_tasks(folder)
    found = qs.views.merge_tasks(folder)
    assert contents(found.folder) == contents(whole[1].folder)
    (found.folder / "ids.bin").unlink()
    with pytest.raises(ValueError, match=f"{found.folder.name} lacks ids.bin: delete the folder"):
        qs.views.merge_tasks(folder)


# ---- two at once


def test_who_comes_second_takes_what_is_there(scope, texts, whole, tmp_path, monkeypatch):
    """Another process finishes the shard while this one writes it."""
    shard, own = next(shards.cut(texts, CHARS))
    there, place = work_of(whole[0]).places[0], tmp_path / "shard"
    arrays = Table.arrays

    def late(self):
        if not place.exists():
            shutil.copytree(there, place)
            (place / "scan.json").touch()
        return arrays(self)

    monkeypatch.setattr(Table, "arrays", late)
    before = None
    shards.write_shard(scope, own, LAYERS, shard, place)
    before = {p.name: p.stat().st_mtime_ns for p in place.iterdir()}
    assert contents(place) == contents(there)
    assert [p.name for p in tmp_path.iterdir()] == ["shard"], "nothing half is left"
    monkeypatch.setattr(shards, "activations", None)
    shards.write_shard(scope, own, LAYERS, shard, place)
    assert before == {p.name: p.stat().st_mtime_ns for p in place.iterdir()}


def test_a_scan_that_another_process_has_merged_meanwhile_is_taken(
    scope, texts, whole, tmp_path, monkeypatch
):
    """It also removes the shards, in the middle of one of them."""
    place = tmp_path / whole[1].folder.name
    arrays = Table.arrays

    def merged(self):
        if not place.exists():
            shutil.copytree(whole[1].folder, place)
            shutil.rmtree(next(tmp_path.glob("shards-*")))
        return arrays(self)

    monkeypatch.setattr(shards.cut, "__defaults__", (CHARS,))
    monkeypatch.setattr(Table, "arrays", merged)
    found = qs.views.scan_corpus(scope, texts, LAYERS, tmp_path)
    assert found.folder == place and contents(place) == contents(whole[1].folder)
    assert [p.name for p in tmp_path.iterdir()] == [place.name]


AT_ONCE = """
import json, sys, time
from pathlib import Path
import qs_helpers as qs
from qs_helpers.views import tasks
folder, own = Path(sys.argv[1]), sys.argv[2]
about, work = tasks.read_tasks(folder)
tasks._loaded(json.dumps(about["scope"]))
(folder / own).touch()
while not all((folder / name).exists() for name in "ab"):
    time.sleep(0.01)
for number in range(len(work.shards)):
    qs.views.run_task(folder, number)
"""


@pytest.mark.long
def test_two_processes_may_write_the_same_shards(whole, tmp_path):
    folder = copied(whole, tmp_path)
    command = [sys.executable, "-c", AT_ONCE, str(folder)]
    both = [subprocess.Popen([*command, own], stderr=subprocess.PIPE) for own in "ab"]
    assert [(p.wait(), p.stderr.read()) for p in both] == [(0, b"")] * 2
    places = sorted(work_of(folder).places[0].parent.iterdir())
    assert {p.name for p in places} == written(whole[0]), "no record of failures, nothing half"
    assert contents(qs.views.merge_tasks(folder).folder) == contents(whole[1].folder)


# ---- tasks


def test_tasks_are_written_once(scope, texts, whole, tmp_path):
    folder = copied(whole, tmp_path)
    before = contents(folder)
    assert qs.views.write_tasks(scope, iter(texts), LAYERS, folder, CHARS) == len(cut(texts))
    assert contents(folder) == before
    for other in ((texts[1:], LAYERS, CHARS), (texts, [1], CHARS), (texts, LAYERS, 2 * CHARS)):
        with pytest.raises(ValueError, match="holds the tasks of another scan; choose another"):
            qs.views.write_tasks(scope, other[0], other[1], folder, other[2])
    assert contents(folder) == before


def test_texts_come_back_as_they_were(scope, tmp_path):
    odd = ["the dog\u2028sees\n\na\tcat", "\ufeffthe dog", 'a "cat"\\', "él\u0085 é"]
    qs.views.write_tasks(scope, odd, [3], tmp_path, chars=12)
    qs.views.run_tasks(tmp_path)
    found = qs.views.merge_tasks(tmp_path)
    assert [found.ids(n).tolist() for n in range(4)] == scope.ids(odd)


def test_tasks_that_do_not_fit_are_refused(scope, whole, tmp_path):
    with pytest.raises(ValueError, match=r"tasks.json is not there, and version 3 is read; write"):
        qs.views.run_tasks(tmp_path)
    folder = copied(whole, tmp_path)
    n = len(work_of(folder).shards)
    with pytest.raises(ValueError, match=f"task {n} of .* is none; choose 0 to {n - 1}"):
        qs.views.run_task(folder, n)
    with pytest.raises(ValueError, match="executor is 'dask'; choose from local, slurm, ray"):
        qs.views.run_tasks(folder, executor="dask")
    (folder / "texts" / "1.jsonl").write_text('"the dog sees"\n')
    with pytest.raises(ValueError, match=r"texts.1.jsonl was changed; write the tasks into a new"):
        qs.views.run_task(folder, 1)
    about = json.loads((folder / "tasks.json").read_text())
    (folder / "tasks.json").write_text(json.dumps(about | {"version": 2}))
    with pytest.raises(ValueError, match="tasks.json is of version 2, and version 3 is read"):
        qs.views.merge_tasks(folder)


def test_a_worker_with_other_weights_refuses(scope, whole, tmp_path, monkeypatch):
    folder = copied(whole, tmp_path)
    about = json.loads((folder / "tasks.json").read_text())
    (folder / "tasks.json").write_text(
        json.dumps(about | {"scope": about["scope"] | {"preset": "tiny-sft"}})
    )
    with pytest.raises(ValueError, match="tiny-sft has other weights than those that .* written"):
        qs.views.run_task(folder, 0)
    with pytest.raises(RuntimeError, match=r"shard 0 .* failed twice: ValueError: tiny-sft has"):
        qs.views.run_tasks(folder)
    assert written(folder) == set()


def test_a_scope_is_loaded_again_from_its_keywords(tmp_path, monkeypatch):
    from suites import write_model, write_suite

    from qs_helpers.loading.scope import load_keywords

    write_model(tmp_path / "model"), write_suite(tmp_path / "suite")
    monkeypatch.chdir(tmp_path)
    own = {"dtype": "bfloat16", "k": 3, "batch_tokens": 77, "cache_bytes": 10**6}
    own |= {"thinking": False}
    scope = qs.load_scope(model="./model", sae="./suite", check=False, **own)
    keywords = json.loads(json.dumps(load_keywords(scope)))
    assert keywords.items() >= own.items() and keywords["model"] == str(tmp_path / "model")
    monkeypatch.chdir("/")
    again = qs.load_scope(check=False, **keywords)
    assert again.fingerprint([0, 2]) == scope.fingerprint([0, 2])
    assert again.batch_tokens == 77 and again.plan() == scope.plan()


# ---- datatrove


@pytest.fixture
def datatrove():
    return pytest.importorskip(
        "datatrove", reason="datatrove is not installed: pip install 'qs-helpers[scale]'"
    )


def test_more_workers_need_datatrove(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove", None)
    with pytest.raises(ImportError, match=r"pip install 'qs-helpers\[scale\]'"):
        qs.views.run_tasks(copied(whole, tmp_path), workers=2)


def test_two_workers_of_datatrove_give_the_same_bytes(datatrove, whole, tmp_path):
    folder = copied(whole, tmp_path)
    qs.views.run_task(folder, 0)
    record = next(folder.glob("shards-*/*/scan.json")).stat().st_mtime_ns
    qs.views.run_tasks(folder, workers=2)
    assert contents(qs.views.merge_tasks(folder).folder) == contents(whole[1].folder)
    places = work_of(folder).places
    assert (places[0] / "scan.json").stat().st_mtime_ns == record, "what is there is not redone"
    (logs,) = (folder / "logs").iterdir()
    assert len(json.loads((logs / "tasks.json").read_text())) == len(places) - 1
    start = time.monotonic()
    qs.views.run_tasks(folder, workers=2)  # nothing is left, and no process is started
    assert time.monotonic() - start < 1 and len(list((folder / "logs").iterdir())) == 1


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_datatrove_goes_on_after_a_failure_and_tries_only_that_again(
    datatrove, scope, poisoned, tmp_path, workers
):
    n = qs.views.write_tasks(scope, poisoned, LAYERS, tmp_path, CHARS)
    for times in ("once", "twice"):  # datatrove calls it complete, and it is tried all the same
        failed = (
            rf"1 of {n} shards are missing.* failed {times}: ValueError: text 20 has \d+ tokens"
        )
        with pytest.raises(RuntimeError, match=failed):
            qs.views.run_tasks(tmp_path, workers, start_method="forkserver")
        assert len(written(tmp_path)) == n - 1
    tried = [json.loads(path.read_text()) for path in tmp_path.glob("logs/*/tasks.json")]
    assert sorted(map(len, tried)) == [1, n]


# Takes a job array as Slurm's sbatch does, and runs it at once, one task after the other.
SBATCH = """#!{python}
import os, re, subprocess, sys
script = open(sys.argv[-1]).read()
last = int(re.search(r"--array=0-([0-9]+)", script)[1])
for number in range(last + 1 if "launch_pickled" in script else 0):  # not for merge_stats
    env = os.environ | {{"SLURM_ARRAY_TASK_ID": str(number), "SLURM_NODELIST": "here"}}
    subprocess.run(["bash", sys.argv[-1]], env=env, check=True)
print("Submitted batch job 1")
"""
SCONTROL = "#!/bin/sh\necho here\n"
LAUNCH = """#!{python}
from datatrove.tools.launch_pickled_pipeline import main
main()
"""


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Slurm has no Windows")
def test_what_slurm_is_given_runs(datatrove, whole, tmp_path, monkeypatch):
    """Slurm itself is not here: in its place is a script that runs the array."""
    folder, place = copied(whole, tmp_path), tmp_path / "bin"
    place.mkdir()
    scripts = {"sbatch": SBATCH, "scontrol": SCONTROL, "launch_pickled_pipeline": LAUNCH}
    for name, script in scripts.items():
        (place / name).write_text(script.format(python=sys.executable))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    n = len(work_of(folder).shards)
    for number in range(n - 2):
        qs.views.run_task(folder, number)
    about = {"time": "1:00:00", "partition": "gpu", "with_srun": False}
    assert qs.views.run_tasks(folder, workers=-1, executor="slurm", **about) is None
    assert contents(qs.views.merge_tasks(folder).folder) == contents(whole[1].folder)
    assert len(json.loads(next(folder.glob("logs/*/tasks.json")).read_text())) == 2


@pytest.mark.long
def test_ray_gives_the_same_bytes(datatrove, whole, tmp_path):
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install ray")
    folder = copied(whole, tmp_path)
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    except Exception as error:  # it gives itself 30 s, which a busy machine may not have
        pytest.skip(f"Ray does not start on this machine: {error}")
    try:
        qs.views.run_tasks(folder, workers=2, executor="ray", mem_per_cpu_gb=0.5, tasks_per_job=2)
    finally:
        ray.shutdown()
    assert contents(qs.views.merge_tasks(folder).folder) == contents(whole[1].folder)
