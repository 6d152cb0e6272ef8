"""The one memory calculator: by hand, against the modules it speaks of, and all that ask it."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from suites import write_model, write_suite

import qs_helpers as qs
from qs_helpers import forward, sae
from qs_helpers.fast import topk as screening
from qs_helpers.fast.halves import halves_of
from qs_helpers.loading import hub, memory, scope
from qs_helpers.loading.catalog import GROUPS, TINY, find_origin
from qs_helpers.loading.memory import free_bytes, gb, memory_plan, training_plan
from qs_helpers.report import needs
from qs_helpers.training import Recipe, shards, trainer
from qs_helpers.views import tables

ROOT = Path(__file__).resolve().parents[2]


def test_memory_plan_by_hand():
    plan = memory_plan("qwen3-1.7b-l50", layers=[3, 7], batch_tokens=100)
    file = 4 * (2 * 2048 * 32768 + 2048 + 32768)
    layer = file + 2 * 2048 * 32768  # its screen in float16
    assert plan.model == 3_400_000_000
    assert (plan.sae_layer, plan.sae_layers, plan.saes) == (layer, 2 * layer, 2 * layer)
    assert plan.chunk == 2048 * 32768 * 4 and plan.logits == 100 * 151_936 * 4
    # Residuals of two layers in bfloat16, half as many of a batch, three copies, one float32 more.
    assert plan.residuals == 8192 * 2048 * (2 * (2 + 1 + 3) + 16)
    assert plan.products == 4 * plan.chunk + 2 * 12 * 50 * 8192
    assert plan.scan == plan.residuals + plan.products > plan.chunk + plan.logits
    assert plan.device == plan.device_all == plan.model + 2 * layer + plan.scan
    assert plan.least == plan.model + layer + plan.chunk
    assert plan.disk == 3_400_000_000 + 2 * file
    assert plan.host == 3_400_000_000


def test_memory_plan_follows_dtypes_and_layers():
    group = GROUPS["qwen3-8b-l50"]
    half, full = memory_plan(group), memory_plan(group, model_dtype="float32")
    assert full.model == 2 * half.model and full.disk == half.disk
    # Matrices in bfloat16 are not screened.
    screen = 2 * 4096 * 65536
    assert memory_plan(group, sae_dtype="bfloat16").sae_layer * 2 == half.sae_layer - screen
    assert half.sae_layers == 36 * half.sae_layer and half.saes == 2 * half.sae_layer
    assert half.device_all - half.device == 34 * half.sae_layer
    assert memory_plan(group, layers=[]).sae_layers == 0
    assert memory_plan(group, cache_bytes=0).saes == half.sae_layer, "one is kept in any case"


def test_a_larger_batch_and_a_scan_of_more_layers_need_more():
    few, many = (memory_plan("qwen3-8b-l50", n, batch_tokens=8192) for n in (range(2), range(36)))
    assert few.device == many.device, "the logits of a batch decide"
    few, many = (memory_plan("qwen3-8b-l50", n, batch_tokens=64) for n in (range(2), range(36)))
    assert few.device < many.device, "the residuals of a scan decide"


def test_on_a_cpu_tables_count_and_screens_are_smaller():
    gpu, cpu = memory_plan("qwen3-1.7b-l50", [5]), memory_plan("qwen3-1.7b-l50", [5], device="cpu")
    assert gpu.sae_layer - cpu.sae_layer == 32768 * 2048
    assert 4 * cpu.chunk == gpu.chunk == 2048 * 32768 * 4
    assert cpu.scan - cpu.products - (gpu.scan - gpu.products) == cpu.tables == gpu.tables
    assert cpu.device == cpu.model + cpu.sae_layer + max(cpu.chunk + cpu.logits, cpu.scan)
    assert memory_plan("qwen3-1.7b-l50", [5], device=torch.device("cuda", 1)) == gpu


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"layers": [35, 36]}, r"layers \[36\] .* qwen3-8b-l50; it has 0 to 35"),
        ({"model_dtype": "int8"}, "model_dtype is 'int8'; .* bfloat16"),
        ({"sae_dtype": "fp32"}, "sae_dtype is 'fp32'; .* float32"),
        ({"batch_tokens": 0}, "batch_tokens is 0; it must be at least 1"),
    ],
)
def test_memory_plan_refuses(given, words):
    with pytest.raises(ValueError, match=words):
        memory_plan("qwen3-8b-l50", **given)


def test_constants_are_those_of_the_modules_that_use_them():
    assert memory.GPU_CHUNK_BYTES == sae.GPU_CHUNK_BYTES
    assert memory.CHUNK_BYTES == sae.CHUNK_BYTES and memory.SCREENED == screening.LEAST
    assert (memory.PART_TOKENS, memory.PART_BYTES) == (
        forward.CHUNK_TOKENS,
        forward.RESIDUAL_BYTES,
    )
    for group in GROUPS.values():
        assert memory_plan(group).tokens == forward.chunk_tokens(group)
    numbers = 8 * (2 + len(tables.EDGES) - 1 + 2)  # fired, total, histogram, limits of both kinds
    contexts = 2 * (tables.TOP + tables.SAMPLE) * tables.ROW.itemsize
    assert memory.TABLE_BYTES == numbers + contexts
    assert memory.MERGE_BYTES == 3 * 2 * tables.SAMPLE * tables.ROW.itemsize


def test_a_screen_takes_what_is_planned(monkeypatch):
    monkeypatch.setattr(screening, "has_int8", lambda: True)
    monkeypatch.setattr(memory, "SCREENED", 0)
    monkeypatch.setattr(screening, "LEAST", 0)
    W = torch.randn(512, 64)
    rows = screening.make_screen(W, torch.zeros(512), 4).rows
    group = GROUPS["qwen3-1.7b-l50"].__class__("x", "x", "x", 2, 64, 512, 4, 1e6)
    assert memory_plan(group, device="cpu").sae_layer - group.layer_bytes == rows.nbytes
    halves = halves_of(W, torch.zeros(512)).rows
    assert memory_plan(group).sae_layer - group.layer_bytes == halves.nbytes


# ---- one number, whoever asks


@pytest.fixture
def hub_of_nothing(monkeypatch):
    """Every group's repos are on the Hub, with a config and no weights."""
    group = {}

    def open_source(name, revision=None, timeout=0):
        files = {f"layer{n}.sae.pt": 0 for n in group["is"].layers} | {"config.json": 1}
        files = files if "SAE" in name else {"config.json": 1, "model.safetensors": 1}
        return hub.Source(name, "0" * 40, revision, None, files, None)

    def read_json(source, file):
        found = group["is"]
        depth = {"num_hidden_layers": found.n_layers}
        return {} if "SAE" in source.name else {"hidden_size": found.d_model} | depth

    monkeypatch.setattr(hub, "open_source", open_source)
    monkeypatch.setattr(hub, "read_json", read_json)
    return group


@pytest.mark.parametrize("name", list(GROUPS))
def test_all_that_ask_hear_one_number(name, hub_of_nothing, monkeypatch):
    group = hub_of_nothing["is"] = GROUPS[name]
    whole = memory_plan(name)
    assert qs.views.plan_scan(group) == whole
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(MemoryError) as refused:
        scope.load_scope(name, device="cuda", dtype="bfloat16")
    assert f"needs {gb(whole.device)} on cuda" in str(refused.value)
    # The question of the page on presets: three layers, on a GPU.
    three = memory_plan(name, group.layers[:3])
    assert qs.views.plan_scan(group, group.layers[:3]) == three
    (row,) = (
        line
        for line in (ROOT / "notebooks" / "params" / "README.md").read_text().splitlines()
        if f"`{name}`" in line and line.startswith("|")
    )
    assert row.split("|")[3].strip() == f"{three.device / 1e9:.1f} GB"
    origin = find_origin(name, ROOT / "notebooks" / "params")
    for layers, plan in ((group.layers[:3], three), ([], whole)):
        monkeypatch.setattr(needs, "_gpu_free", lambda plan=plan: plan.device)
        found = needs.check_memory(origin, {"01": {"LAYERS": list(layers)}})
        assert found.problems == [] and f"{gb(plan.device)} needed" in found.lines[0]
        monkeypatch.setattr(needs, "_gpu_free", lambda plan=plan: plan.device - 1)
        assert needs.check_memory(origin, {"01": {"LAYERS": list(layers)}}).problems


def test_a_folder_is_planned_alike_by_all(tmp_path, monkeypatch):
    model, suite = write_model(tmp_path / "model"), write_suite(tmp_path / "suite")
    loaded = scope.load_scope(model=model, sae=suite, device="cpu")
    plan = loaded.plan()
    assert (
        plan
        == qs.views.plan_scan(loaded)
        == memory_plan(loaded.group, None, "float32", device="cpu")
    )
    bf16 = (model / "model.safetensors").stat().st_size
    assert plan.model == 2 * bf16, "float32 of a bf16 file"
    origin = find_origin(None, model=model, sae=suite, device="cpu")
    assert f"{gb(plan.device)} needed" in needs.check_memory(origin, {}).lines[0]
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(MemoryError, match=re.escape(f"needs {gb(plan.device)} on cpu")):
        scope.load_scope(model=model, sae=suite, device="cpu")


def test_a_suite_that_cannot_be_read_is_a_problem_of_the_report(tmp_path):
    model, suite = write_model(tmp_path / "m", d_model=32), write_suite(tmp_path / "s")
    origin = find_origin(None, model=model, sae=suite, device="cpu")
    (problem,) = needs.check_memory(origin, {}).problems
    assert "W_enc 64 x 16" in problem and "32 wide" in problem


def test_too_little_memory_is_said_before_loading(tmp_path, monkeypatch):
    model, suite = write_model(tmp_path / "model"), write_suite(tmp_path / "suite")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(MemoryError) as caught:
        scope.load_scope(model=model, sae=suite, device="cpu")
    message = str(caught.value)
    assert "\n" not in message and "needs" in message and "is free" in message
    assert "dtype='bfloat16' halves the model" in message and "groups that fit: tiny" in message


def test_what_is_enough_for_one_sae_is_loaded(tmp_path, monkeypatch):
    model, suite = write_model(tmp_path / "model"), write_suite(tmp_path / "suite")
    plan = scope.load_scope(model=model, sae=suite, device="cpu").plan()
    assert plan.least < plan.device
    monkeypatch.setattr(memory, "free_bytes", lambda device: plan.least)
    assert scope.load_scope(model=model, sae=suite, device="cpu").n_layers == 3


# ---- free memory


def test_free_memory_is_told(monkeypatch):
    assert 10**6 < free_bytes("cpu") <= psutil.virtual_memory().total
    assert free_bytes("meta") is None and free_bytes("mps") is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 9))
    assert free_bytes(torch.device("cuda", 0)) == free_bytes("cuda") == 7


def test_bytes_in_words():
    assert [gb(n) for n in (23_251_952_640, 100_000_000, 99_600_000, 1000)] == [
        "23.3 GB",
        "0.1 GB",
        "100 MB",
        "0 MB",
    ]


def test_planning_needs_no_torch():
    code = (
        "import sys; from qs_helpers.loading import catalog, hub, memory\n"
        "from qs_helpers.report import needs\n"
        "assert memory.memory_plan('qwen3-8b-l50').device and memory.free_bytes()\n"
        "origin = catalog.find_origin('tiny')\n"
        "assert needs.check_memory(origin, {}).lines\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_labelled_texts_are_read_in_as_many_passes_as_their_residuals_need():
    group = GROUPS["qwen3-8b-l50"]
    plan = memory.plan_readings(group, group.layers, 8000, 64, 30)
    assert plan.groups == [list(range(i, i + 12)) for i in (0, 12, 24)]
    assert plan.readings == 12 * 4 * 8000 * (4096 + 64) <= memory.READING_BYTES
    assert plan.counts == 8 * 30 * 65536 * 12 and plan.host == plan.readings
    assert "3 passes, 12 layers at most in each" in str(plan)
    few = memory.plan_readings(group, [3, 5], 100, 64, 10)
    assert few.groups == [[3, 5]] and "all layers in one pass" in str(few)
    wide = memory.plan_readings(group, [3, 5], 10**6, 64, 10)  # one layer at least
    assert wide.groups == [[3], [5]]
    for name, group in GROUPS.items():
        plan = memory.plan_readings(group, group.layers, 8000, 128, 40)
        assert [n for some in plan.groups for n in some] == list(group.layers)
        assert plan.host <= memory.READING_BYTES, name


# ---- what a training takes


def test_training_plan_by_hand():
    plan = training_plan("qwen3-1.7b-l50", [13, 6], 16_384, 64, 1_000_000, batch_tokens=100)
    sae = 4 * (2 * 2048 * 16_384 + 2048 + 16_384)
    assert (plan.layers, plan.tokens, plan.model) == (2, 1_000_000, 3_400_000_000)
    assert plan.shards == 2 * 1_000_000 * 2048 * 2 == 8_192_000_000
    assert plan.saes == 2 * sae == 537_018_368
    # Weights, two moments and a counter, of both layers and once more while one is written.
    assert plan.checkpoints == 3 * (3 * sae + 4 * 16_384)
    assert plan.disk == plan.shards + plan.checkpoints + plan.saes
    matrix = 4 * 2048 * 16_384
    assert plan.step == 4 * sae + matrix + 4 * 512 * (2 * 16_384 + 3 * 2048)
    assert plan.start == matrix + 3 * 4 * 2048 * 32_768 == 3 * matrix + 2 * 4 * 2048 * 32_768
    assert plan.splice == sae + matrix // 2 + 2**28 + 4 * 100 * 151_936
    assert plan.harvest == 8192 * 2048 * (2 * (2 + 1 + 3) + 16)
    assert plan.device == plan.model + plan.step
    # 14 of 28 layers; 1,953 whole batches of 512.
    assert plan.reading == 2 * 1_700_000_000 * 1_000_000 // 2
    steps = 2 * 1953
    assert plan.training == steps * 512 * (4 * 2048 * 16_384 + 6 * 64 * 2048)
    assert plan.measuring == 2 * 2 * 2048 * 16_384 * 1_200_000
    assert plan.adam == steps * 8 * sae
    assert plan.traffic == 2 * plan.shards
    seconds = plan.reading / (0.4 * 989e12) + plan.training / (0.4 * 67e12)
    seconds += plan.adam / 3.35e12 + plan.measuring / (0.4 * 1.28e12) + plan.traffic / 1e9
    assert plan.hours() == pytest.approx(seconds / 3600)
    slower = (plan.reading + plan.training) / 3600e9  # at 1e9 FLOP/s, in the place of the peaks
    faster = plan.reading / (0.4 * 989e12) + plan.training / (0.4 * 67e12)
    assert plan.hours(1e9, 1e9) - plan.hours() == pytest.approx(slower - faster / 3600)


def test_training_plan_follows_layers_dtype_and_device():
    one, all_of_it = ("qwen3-8b-l50", [35], 1024, 8, 10**6), ("qwen3-8b-l50", range(36), 1024, 8)
    deep, whole = training_plan(*one), training_plan(*all_of_it, 10**6)
    assert deep.reading == whole.reading == 2 * 8.2e9 * 10**6, "read once, to the deepest layer"
    assert whole.shards == 36 * deep.shards and whole.training == 36 * deep.training
    assert training_plan(*one, "float32").shards == 2 * deep.shards
    cpu = training_plan(*one, device="cpu")
    assert cpu.mixed == deep.mixed == 2 * 131_072 * 4096 * 2
    assert cpu.device == cpu.model + max(cpu.harvest, cpu.start, cpu.step, cpu.splice) + cpu.mixed
    short = training_plan(*one[:-1], 512 * 63)  # ends before its first checkpoint
    assert short.checkpoints == 0
    moe = training_plan("qwen3-30b-a3b-l50", [47], 1024, 8, 10**6)
    assert moe.reading == 2 * 3e9 * 10**6 and moe.model == 61_000_000_000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([36], 64, 4, 100), r"layers are \[36\]; choose some of 0 to 35"),
        (([-1, 2], 64, 4, 100), r"layers are \[-1, 2\]"),
        (([], 64, 4, 100), r"layers are \[\]"),
        (([1], 0, 4, 100), "d_sae is 0; it must be at least 1"),
        (([1], 64, 0, 100), "k is 0; it must be at least 1"),
        (([1], 64, 4, 0), "tokens is 0; it must be at least 1"),
        (([1], 64, 65, 100), "k is 65; choose from 1 to d_sae, which is 64"),
        (([1], 64, 4, 100, "int8"), "model_dtype is 'int8'"),
    ],
)
def test_training_plan_refuses(given, words):
    with pytest.raises(ValueError, match=words):
        training_plan("qwen3-8b-l50", *given)


def test_constants_of_a_training_are_those_of_the_trainer():
    assert Recipe(1, 1, 1).batch == memory.BATCH
    for name in ("SAMPLE", "SAVED_EVERY", "MEASURED", "FIRED_IN"):
        assert getattr(memory, name) == getattr(trainer, name), name
    assert (memory.MIXED, memory.SHARD_BYTES) == (shards.MIXED, shards.SHARD_BYTES)


def test_a_training_writes_what_is_planned(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SAVED_EVERY", 1024)
    monkeypatch.setattr(trainer, "SAVED_AFTER", 0)
    monkeypatch.setattr(memory, "SAVED_EVERY", 1024)
    model = qs.loading.load_language_model("tiny", dtype="float32", device="cpu")
    passages = qs.load_texts("tiny", "passages", n={"discovery": 60, "test": 4})
    texts, new = ([t.text for t in passages if t.split == s] for s in ("discovery", "test"))
    recipe, layers, found = Recipe(128, 8, 4096), [1, 3], {}

    def told(line):
        """Sizes at each stage: after the last of them the work is removed."""
        for path in (tmp_path / "suite").rglob("*.*"):
            found[path.relative_to(tmp_path / "suite").as_posix()] = path.stat().st_size

    trainer.train_suite(model, texts, new, layers, tmp_path / "suite", recipe, told=told)
    group = hub.model_group(hub.open_source(TINY["tiny"] / "model"))
    plan = training_plan(group, layers, 128, 8, 4096, "float32", device="cpu")

    def size(pattern):
        return sum(n for name, n in found.items() if re.fullmatch(pattern, name))

    read = 4096 + shards.LEAST  # whole pieces are read: a few tokens more
    assert plan.shards < size(r"work/train-1-3/.*\.safetensors") < plan.shards * read / 4096
    assert size(r"layer\d\.sae\.pt") == pytest.approx(plan.saes, rel=0.02)
    one = plan.checkpoints / 3
    assert size(r"work/layer1\.state") == pytest.approx(one, rel=0.02)
    assert size(r"work/layer\d\.state") == pytest.approx(2 * one, rel=0.02)


@pytest.mark.parametrize("silent", [0.0, 0.5, 1.0])
def test_the_memory_of_a_step_is_what_is_planned(silent):
    """By torch's own count of what is allocated, from the first tensors on."""
    from torch.profiler import ProfilerActivity, profile

    width, d_sae, x = 512, 4096, torch.randn(2048, 512, generator=torch.manual_seed(0))
    recipe = Recipe(d_sae, 16, 10**6)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        state = trainer.begin(x, recipe)
        for _ in range(2):
            since = 1e9 * (torch.arange(d_sae) < silent * d_sae)
            state = trainer.advance(state._replace(since=since), x[:512], recipe)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    most = max(itertools.accumulate(e.nbytes() for e in events))
    group = GROUPS["qwen3-1.7b-l50"].__class__("x", "x", "x", 2, width, 0, 0, 1e6)
    plan = training_plan(group, [1], d_sae, 16, 2048)
    assert 0.8 * plan.step < most <= plan.step
