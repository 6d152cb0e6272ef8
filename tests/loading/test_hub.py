"""Model and SAE suite from a Hub: download, cache, resume, and every way it can be refused.

The library reads HF_ENDPOINT and HF_HOME when it is imported, so each phase is a process.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import COMMIT, HubServer
from suites import write_model, write_suite

from qs_helpers.loading import hub

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024

ONLINE = """
from qs_helpers.loading.scope import load_scope
scope = load_scope(model="lab/model", sae="lab/SAE-Res-model-W128K-L0_4", device="cpu")
sae = scope.sae(0)
note("load", [scope.k, scope.d_sae, list(scope.layers), list(sae.W_enc.shape)])
note("provenance", scope.provenance())
from qs_helpers.loading import catalog
catalog.GROUPS["lab-l4"] = catalog.Group(
    "lab-l4", "lab/suite", "lab/model", 3, 16, 64, 4, 1e6, revision=COMMIT
)
group = load_scope("lab-l4", device="cpu")
note("group", [group.name, group.k, group.provenance()["sae"]["revision"]])
for name, suite in (("lab-l50", "lab/suite"), ("lab-l100", "lab/SAE-Res-model-W128K-L0_4")):
    catalog.GROUPS[name] = catalog.Group(name, suite, "lab/model", 3, 16, 64, 4, 1e6)
other = load_scope("lab-l50", device="cpu").sibling()
note("sibling", [other.name, list(other.layers), list(other.sae(0).W_enc.shape)])
attempt("sibling_not_cached", lambda: other.sae(1))
catalog.GROUPS["lab-l100"] = catalog.Group("lab-l100", "lab/none", "lab/model", 3, 16, 64, 4, 1e6)
note("no_sibling", load_scope("lab-l50", device="cpu").sibling())
note("half", load_scope("lab-l4", sae="lab/SAE-Res-model-W128K-L0_4", device="cpu").name)
attempt("layer_without_file", lambda: scope.sae(1))
attempt("layer_out_of_range", lambda: scope.sae(3))
load = lambda **given: load_scope(**{"model": "lab/model", "sae": "lab/suite", **given})
attempt("unknown_repo", lambda: load(sae="lab/nothing"))
attempt("unknown_model", lambda: load(model="lab/nothing"))
attempt("wrong_revision", lambda: load(sae_revision="v9"))
attempt("wrong_model_revision", lambda: load(model_revision="v9"))
attempt("gated", lambda: load(model="lab/gated"))
attempt("no_sae_files", lambda: load(sae="lab/model"))
attempt("one_word", lambda: load(sae="nothing"))
"""

OFFLINE = """
from qs_helpers.loading.scope import load_language_model, load_scope
names = {"model": "lab/model", "sae": "lab/SAE-Res-model-W128K-L0_4", "device": "cpu"}
scope = load_scope(**names)
note("load", [scope.k, scope.d_sae, list(scope.layers), list(scope.sae(0).W_enc.shape)])
note("commit", scope.provenance()["sae"]["commit"])
pinned = load_scope(**names, model_revision=COMMIT, sae_revision=COMMIT)
note("pinned", list(pinned.layers))
named = {"model": f"lab/model@{COMMIT}", "sae": f"{names['sae']}@{COMMIT}", "device": "cpu"}
note("scope_at", load_scope(**named).provenance())
note("pinned_at", pinned.provenance())
note("alone", load_language_model("lab/model", revision=COMMIT, device="cpu").provenance()["model"])
note("at", load_language_model(f"lab/model@{COMMIT}", device="cpu").provenance()["model"])
attempt("at_v9", lambda: load_language_model("lab/model@v9", device="cpu"))
attempt("layer_not_cached", lambda: scope.sae(2))
attempt("repo_not_cached", lambda: load_scope(model="lab/model", sae="lab/other"))
"""

PRELUDE = """
import json, sys
COMMIT = sys.argv[1]
found = {}
note = found.__setitem__
def attempt(name, action):
    try:
        found[name] = ["no error", repr(action())]
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]
"""


def in_process(script: str, home: Path, endpoint: str, **environment: str) -> dict:
    """Run `script` in a fresh interpreter with its own Hub cache; return what it noted."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script + "\nprint(json.dumps(found))", COMMIT],
        cwd=ROOT,
        env=clean | settings | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"stderr": done.stderr}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Repos on a server, used once with it and once after it has stopped."""
    root = tmp_path_factory.mktemp("hub")
    model = write_model(root / "model", d_model=16, n_layers=3)
    suite = write_suite(root / "suite", layers=(0, 2), d_sae=128 * 1024, config=False)
    repos = {"lab/model": model, "lab/SAE-Res-model-W128K-L0_4": suite}
    repos["lab/suite"] = write_suite(root / "small")
    # The library keeps what it read in units of 10 MiB, so the 17 MB file is cut off after those.
    server = HubServer(repos, gated=["lab/gated"], break_after={"layer0.sae.pt": 11 * MIB})
    with server:
        online = in_process(ONLINE, root / "home", server.url)
    offline = in_process(OFFLINE, root / "home", server.url)
    found = {"online": online, "offline": offline, "requests": server.requests, "suite": suite}
    return found | {"home": root / "home"}


def test_download_and_load_by_repo_name(lab):
    assert lab["online"]["load"] == [4, 131072, [0, 2], [131072, 16]]


def test_a_group_of_the_catalog_brings_its_repos_and_revisions(lab):
    assert lab["online"]["group"] == ["lab-l4", 4, COMMIT]
    assert lab["online"]["half"] == "lab/model + lab/SAE-Res-model-W128K-L0_4"


def test_a_sibling_is_what_the_cache_has_of_the_other_group(lab):
    assert lab["online"]["sibling"] == ["lab-l100", [0], [131072, 16]]
    assert lab["online"]["no_sibling"] is None


def test_broken_download_is_taken_up_where_it_broke(lab):
    ranges = [r for _, path, r in lab["requests"] if path.endswith("layer0.sae.pt") and r]
    assert ranges == [f"bytes={10 * MIB}-"]
    assert not list(lab["home"].rglob("*.incomplete"))


def test_provenance_names_commit_and_true_sha256(lab):
    sae, model = (lab["online"]["provenance"][part] for part in ("sae", "model"))
    digest = hashlib.sha256((lab["suite"] / "layer0.sae.pt").read_bytes()).hexdigest()
    assert sae["files"] == {"layer0.sae.pt": {"sha256": digest, "from": "hub"}}
    assert sae["commit"] == model["commit"] == COMMIT
    assert sae["revision"] == "main"
    assert sae["source"] == "lab/SAE-Res-model-W128K-L0_4"
    assert list(model["files"]) == ["model.safetensors"]


def test_only_the_layers_that_were_used_are_downloaded(lab):
    assert not [path for _, path, _ in lab["requests"] if "layer2" in path]


def test_second_load_needs_no_network(lab):
    assert lab["offline"]["load"] == [4, 131072, [0], [131072, 16]]
    assert lab["offline"]["commit"] == COMMIT
    assert lab["offline"]["pinned"] == [0]
    whole = lab["online"]["provenance"]["model"]
    assert lab["offline"]["scope_at"] == lab["offline"]["pinned_at"]
    assert lab["offline"]["alone"] == lab["offline"]["at"] == whole | {"revision": COMMIT}
    assert "Traceback" not in lab["offline"]["stderr"]


@pytest.mark.parametrize(
    ("phase", "case", "kind", "words"),
    [
        ("online", "layer_without_file", "FileNotFoundError", ["layer 1", "it has layers 0, 2"]),
        ("online", "layer_out_of_range", "ValueError", ["layer is 3", "0 to 2"]),
        ("online", "unknown_repo", "FileNotFoundError", ["lab/nothing", "check its name"]),
        ("online", "unknown_model", "FileNotFoundError", ["lab/nothing", "check its name"]),
        ("online", "wrong_revision", "FileNotFoundError", ["lab/suite", "'v9'", "full commit"]),
        ("online", "wrong_model_revision", "FileNotFoundError", ["lab/model", "'v9'"]),
        ("online", "gated", "PermissionError", ["lab/gated is gated", "hf auth login"]),
        ("online", "no_sae_files", "FileNotFoundError", ["lab/model", "layer0.sae.pt", "it has"]),
        ("online", "one_word", "FileNotFoundError", ["nothing is neither", "owner/name"]),
        ("online", "sibling_not_cached", "ConnectionError", ["layer 1", "the Hub was not asked"]),
        (
            "offline",
            "layer_not_cached",
            "ConnectionError",
            ["layer 2", "not cached", "cannot be reached", "layer0.sae.pt", "connect once"],
        ),
        (
            "offline",
            "repo_not_cached",
            "ConnectionError",
            ["lab/other at main", "not in the cache", "connect once", "HF_ENDPOINT"],
        ),
        ("offline", "at_v9", "ConnectionError", ["lab/model at v9", "not in the cache"]),
    ],
)
def test_refusals_name_the_offender_and_the_way_out(lab, phase, case, kind, words):
    found, message = lab[phase][case]
    assert found == kind, message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B-Base"),
        ("/home/alice/work/model", "~/work/model"),
        ("/Users/alice/model", "~/model"),
        ("/data/home/alice/a/model", "~/a/model"),
        ("/data/models/a", "/data/models/a"),
        (str(Path(hub.__file__).parents[1] / "tiny" / "base"), "qs_helpers/tiny/base"),
    ],
)
def test_names_of_sources_tell_no_home(name, shown):
    assert hub.portable(name) == shown


def test_download_that_cannot_be_finished(monkeypatch):
    import httpx
    import huggingface_hub

    def broken(*_, **__):
        raise httpx.ReadError("connection reset")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    source = hub.Source("lab/suite", COMMIT, "main", None, {"layer0.sae.pt": 5}, None)
    with pytest.raises(ConnectionError) as caught:
        hub.fetch(source, "layer0.sae.pt")
    assert "download of layer0.sae.pt from lab/suite failed" in str(caught.value)
    assert "connection reset" in str(caught.value) and "run it again" in str(caught.value)


def test_offline_switch_with_an_empty_cache(tmp_path):
    script = """
from qs_helpers.loading.hub import open_source
attempt("offline", lambda: open_source("lab/model"))
"""
    found = in_process(script, tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    kind, message = found["offline"]
    assert kind == "ConnectionError"
    assert "lab/model at main is not in the cache" in message and "HF_HUB_OFFLINE is set" in message
