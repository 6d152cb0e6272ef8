"""What a report needs of memory, disk and network, told before it runs."""

import sys
from pathlib import Path

from hub_server import HubServer
from suites import write_model, write_suite

from qs_helpers.loading.catalog import Origin, find_origin
from qs_helpers.loading.memory import memory_plan
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
