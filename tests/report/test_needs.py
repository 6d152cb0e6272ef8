"""What a report needs of memory, disk and network, told before it runs."""

import sys
from collections import namedtuple
from pathlib import Path

import pytest
from hub_server import HubServer
from suites import write_model, write_suite

from qs_helpers.loading.catalog import TINY, Origin, find_origin
from qs_helpers.loading.hub import model_group, open_source
from qs_helpers.loading.memory import FLOAT32_FLOPS, gb, memory_plan, training_plan
from qs_helpers.report import needs as resources

PARAMS = Path(__file__).resolve().parents[2] / "notebooks" / "params"


def test_tiny_needs_nothing():
    origin = find_origin("tiny", PARAMS)
    assert resources.check_access(origin, {"01_load": {"LAYERS": []}}) == ([], [])
    memory = resources.check_memory(origin, {})
    assert memory.problems == [] and "free on this machine" in memory.lines[0]


def test_a_model_that_does_not_fit_is_refused_with_its_plan(monkeypatch):
    origin = find_origin("qwen3-8b-l50", PARAMS)
    values = {"01": {"LAYERS": [1]}, "02": {"LAYERS": [1, 2]}, "05": {}}
    plan = memory_plan("qwen3-8b-l50", [1, 2])
    needed = plan.device
    # Two SAE layers are kept at once, also of more: that is what the scope's cache holds.
    assert needed == plan.model + 2 * plan.sae_layer + plan.chunk + 4 * 4096 * 151_936
    assert needed == memory_plan("qwen3-8b-l50", range(30)).device
    monkeypatch.setattr(resources, "_gpu_free", lambda: 1)
    assert resources.check_memory(origin, values, needed).problems == []
    (problem,) = resources.check_memory(origin, values, needed - 1).problems
    assert (
        f"{needed / 1e9:.1f} GB needed" in problem and "groups that fit: qwen3-1.7b-l50" in problem
    )
    small = origin._replace(batch_tokens=1024)
    assert resources.check_memory(small, values, needed - 1).problems == []


def test_a_full_gpu_has_nothing_free(monkeypatch):
    origin = find_origin("qwen3-8b-l50", PARAMS)
    monkeypatch.setattr(resources, "_gpu_free", lambda: 0)
    (problem,) = resources.check_memory(origin, {}).problems
    assert "0 MB free on the GPU" in problem


def test_a_mac_holds_bfloat16(monkeypatch):
    origin = find_origin("qwen3-8b-l50", PARAMS)
    monkeypatch.setattr(resources, "_gpu_free", lambda: None)
    monkeypatch.setattr(resources, "free_bytes", lambda device: 10**12)
    sizes = {}
    for device in (None, "mps"):
        (line,) = resources.check_memory(origin._replace(device=device, dtype=None), {}).lines[:1]
        sizes[device] = float(line.split()[1])
    assert sizes["mps"] < 0.8 * sizes[None]


def test_only_files_that_are_fetched_are_counted(monkeypatch):
    files = {"layer0.sae.pt": 10**9, "config.json": 10, "sae_L0_cfg.json": 10}
    more = {"README.md": 10**9, "sae_L0_resume.pt": 10**9, "states.ckpt.pt": 10**9}
    source = resources.hub.Source("x/suite", "0" * 40, "main", None, files | more, None)
    monkeypatch.setattr(resources.hub, "open_source", lambda *_, **__: source)
    assert resources._repo("x/suite", None).download == 10**9 + 20


def test_the_second_model_of_08_counts(monkeypatch):
    origin = find_origin("qwen3-8b-l50", PARAMS)
    values = {"08_benchmark_overlap": {"LAYERS": [1], "RANDOM_MODELS": 20}}
    plan = memory_plan("qwen3-8b-l50", [1])
    monkeypatch.setattr(resources, "_gpu_free", lambda: 1)
    found = resources.check_memory(origin, values, plan.device + plan.model)
    assert found.problems == []
    assert found.lines[1] == "08_benchmark_overlap: 16.4 GB more for a model with random weights"
    (problem,) = resources.check_memory(origin, values, plan.device + plan.model - 1).problems
    assert "RANDOM_MODELS 0 leaves that control out" in problem
    values["08_benchmark_overlap"]["RANDOM_MODELS"] = 0
    assert resources.check_memory(origin, values, plan.device).problems == []


def test_files_and_datasets(tmp_path, monkeypatch):
    origin = find_origin("tiny", PARAMS)

    def problems(**values):
        return resources.check_access(origin, {"04": values}).problems

    (tmp_path / "a.csv").write_text("")
    assert problems(DATA=str(tmp_path / "a.csv")) == []
    bundled = {"TEXTS": "tiny:story", "PROMPTS": ["natural"], "DATA": "natural"}
    assert problems(**bundled) == []
    gone = f"{tmp_path}/b.txt: there is no such file"
    assert [problems(**{name: f"{tmp_path}/b.txt"}) for name in ("TEXTS", "PROMPTS")] == [
        [gone]
    ] * 2
    assert problems(TEXTS="tinny") == ["tinny: there is no such file"]
    assert problems(DATA=str(tmp_path / "b.csv")) == [f"{tmp_path}/b.csv: there is no such file"]
    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: None)
    how = "needs: pip install 'qs-helpers[data]'"
    assert problems(PROMPTS=["a/b", "a/c"]) == [f"a/b {how}", f"a/c {how}"]
    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(resources.hub, "ask_dataset", lambda *_: "no network")
    monkeypatch.setattr(resources, "_cache_home", lambda: tmp_path)
    (problem,) = problems(DATA="a/b@v1")
    assert "its cache lacks a/b: connect once" in problem
    (tmp_path / "datasets--a--b").mkdir()
    assert problems(DATA="a/b@v1") == []
    monkeypatch.setattr(resources.hub, "ask_dataset", lambda *_: "ReadTimeout")
    assert problems(DATA="a/c") == []


HUB = """
import sys
from qs_helpers.report import needs as resources
from qs_helpers.loading.catalog import Origin
values = {"01": {"LAYERS": [0]}, "06": {"LAYERS": [1], "MODELS": ["x/gone"]}}
values["10_train_suite"] = {"MODEL": "x/lost", "LAYERS": [99]}  # it trains what there is not
origin = Origin("mine", "x/model", "x/suite", None)
found = resources.check_access(origin, values)
print("\\n".join([*found.lines, "--", *found.problems]))
"""


def test_a_hub_is_asked_for_sizes_and_access(tmp_path, monkeypatch):
    """Against a server on loopback: sizes of the layers asked for, and a repo that is not there."""
    import os
    import subprocess

    model = write_model(tmp_path / "model", dtype=__import__("torch").float32)
    suite = write_suite(tmp_path / "suite")
    with HubServer({"x/model": model, "x/suite": suite}) as server:
        env = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        ran = subprocess.run([sys.executable, "-c", HUB], env=env, capture_output=True, text=True)
    lines, problems = ran.stdout.split("--\n")
    assert "x/model: 0 MB, of which 0 MB are cached" in lines
    assert "to download" in lines and "free on the disk" in lines
    assert "the Hub has no repo x/gone" in problems
    assert "the Hub has no repo x/lost" in problems and "99" not in problems
    env |= {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there
    ran = subprocess.run([sys.executable, "-c", HUB], env=env, capture_output=True, text=True)
    problem = ran.stdout.split("--\n")[1]
    assert problem.count("\n") == 1 and "lacks x/model, x/suite, x/gone, x/lost" in problem


def test_a_full_disk_is_told(monkeypatch, tmp_path):
    need = resources._Need(line="x", download=10**15)
    monkeypatch.setattr(resources, "_repo", lambda *_: need)
    found = resources.check_access(Origin(None, "x/a", "x/b", None), {})
    assert "2000000.0 GB are to be downloaded" in found.problems[0]


# ---- a training

TRAINS = {"MODEL": "tiny", "LAYERS": [2, 4], "D_SAE": 1024, "K": 48, "TOKENS": 150_000, "OUT": ""}
BIG = {"MODEL": "Qwen/Qwen3.6-27B", "LAYERS": [31], "D_SAE": 40_960, "K": 64, "TOKENS": 5 * 10**7}
Usage = namedtuple("Usage", "free")


@pytest.fixture
def away(monkeypatch):
    """No Hub, no GPU, and a disk and a memory as large as one says."""

    def refuse(name, revision=None, timeout=0):
        raise ConnectionError("no network") if "/" in name else FileNotFoundError(name)

    free = {"disk": 10**15, "memory": 10**12}
    monkeypatch.setattr(resources.hub, "open_source", refuse)
    monkeypatch.setattr(resources, "_gpu_free", lambda: None)
    monkeypatch.setattr(resources, "free_bytes", lambda device: free["memory"])
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda place: Usage(free["disk"]))
    return free


def test_a_training_is_planned_from_the_files_of_its_model(tmp_path, monkeypatch):
    group = model_group(open_source(TINY["tiny"] / "model"))
    scope = {"dtype": "float32", "batch_tokens": 4096}
    plan = training_plan(group, [2, 4], 1024, 48, 150_000, "float32", device="cpu")
    monkeypatch.setattr(resources, "_gpu_free", lambda: None)
    found = resources.check_training(TRAINS, scope, tmp_path / "new" / "suite")
    assert found == ([f"10_train_suite: {plan}"], []), "on a CPU nothing is said of hours"
    whole = training_plan(group, range(group.n_layers), 1024, 48, 150_000, "float32", device="cpu")
    every = resources.check_training(TRAINS | {"LAYERS": []}, scope, tmp_path)
    assert every.lines == [f"10_train_suite: {whole}"]
    monkeypatch.setattr(resources, "_gpu_free", lambda: 10**11)
    (line,) = resources.check_training(TRAINS, scope, tmp_path).lines
    plan = training_plan(group, [2, 4], 1024, 48, 150_000, "float32")
    hours = resources.in_words(plan.hours(FLOAT32_FLOPS))
    assert line == f"10_train_suite: {plan}; about {hours} on an H100 (planned, not measured)"
    kept = resources.check_training(TRAINS, scope | {"device": "cpu"}, tmp_path)
    assert "H100" not in kept.lines[0]


def test_out_of_reach_the_catalog_is_asked_and_what_nobody_knows_has_no_plan(away, tmp_path):
    scope = {"dtype": "bfloat16", "batch_tokens": 4096}
    plan = training_plan("openinterp-qwen3.6-27b", [31], 40_960, 64, 5 * 10**7, device="cpu")
    (line,) = resources.check_training(BIG, scope, tmp_path).lines
    assert line == f"10_train_suite: {plan}; about 2 hours on an H100 (planned, not measured)"
    assert "50,000,000 tokens at 1 layer; disk 523.7 GB at most: residuals 512.0 GB" in line
    pinned = BIG | {"MODEL": "Qwen/Qwen3.6-27B@main"}
    assert resources.check_training(pinned, scope, tmp_path).lines == [line]
    for unknown in ("lab/model", str(tmp_path / "yet-to-be-made"), "tinny"):
        found = resources.check_training(BIG | {"MODEL": unknown}, scope, tmp_path)
        assert found == ([], []), unknown
    assert resources.check_training({"MODEL": "tiny", "LAYERS": [1]}, {}, tmp_path) == ([], [])
    (problem,) = resources.check_training(BIG | {"LAYERS": [64]}, scope, tmp_path).problems
    assert problem == "10_train_suite: layers are [64]; choose some of 0 to 63"


def test_a_training_that_does_not_fit_is_refused_with_the_way_out(away, tmp_path):
    scope, out = {"dtype": "bfloat16"}, tmp_path / "suite"
    plan = training_plan("openinterp-qwen3.6-27b", [31], 40_960, 64, 5 * 10**7, device="cpu")
    away |= {"disk": plan.disk, "memory": plan.device}
    assert resources.check_training(BIG, scope, out).problems == []
    away["disk"] -= 1000
    assert resources.check_training(BIG, scope, out).problems == [
        f"10_train_suite needs 523.7 GB on the disk of {out}, and 523.7 GB are free there: give "
        "fewer TOKENS or LAYERS, or OUT or QS_RUNS on another disk"
    ]
    (problem,) = resources.check_training(BIG | {"OUT": str(out)}, scope, out).problems
    assert problem.endswith("give fewer TOKENS or LAYERS, or OUT on another disk")
    few = BIG | {"TOKENS": 10**7}
    assert resources.check_training(few, scope, out).problems == []
    (out / "work" / "train-31").mkdir(parents=True)  # of a training that was cut off
    (out / "work" / "train-31" / "00000.safetensors").write_bytes(b"0" * 1000)
    assert resources.check_training(BIG, scope, out).problems == []
    away["memory"] -= 1
    (problem,) = resources.check_training(BIG, scope, out).problems
    assert problem.startswith(f"10_train_suite needs {gb(plan.device)} of memory")
    assert "54.0 GB, and" in problem and "a smaller D_SAE" in problem


SIZES = """
from pathlib import Path
from qs_helpers.report import needs as resources
values = {"LAYERS": [1], "D_SAE": 64, "K": 4, "TOKENS": 10_000, "MODEL": "x/model"}
print(resources.check_training(values, {"dtype": "bfloat16"}, Path("suite")))
"""


def test_a_model_on_the_hub_is_planned_from_its_config(tmp_path):
    """Against a server on loopback, which is then gone."""
    import os
    import subprocess

    model = write_model(tmp_path / "model", dtype=__import__("torch").float32)

    def asked(url):
        env = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}
        env |= {"CUDA_VISIBLE_DEVICES": "", "PATH": ""}  # no nvidia-smi
        how = {"env": env, "capture_output": True, "text": True, "check": True}
        return subprocess.run([sys.executable, "-c", SIZES], **how).stdout.strip()

    with HubServer({"x/model": model}) as server:
        said = asked(server.url)
    plan = training_plan(model_group(open_source(model)), [1], 64, 4, 10_000, device="cpu")
    assert str(plan) in said and "about 1 minute on an H100" in said
    # Of a cache that holds a config and no weights nothing is planned.
    assert asked("http://127.0.0.1:9") == "Resources(lines=[], problems=[])"


def test_hours_in_words():
    said = [resources.in_words(h) for h in (0, 1 / 60, 0.5, 1.5, 1.99, 2, 4.18, 60)]
    minutes = ["1 minute", "1 minute", "30 minutes", "90 minutes", "119 minutes"]
    assert said == [*minutes, "2 hours", "4 hours", "60 hours"]
