"""Claims and values: what is printed, what is recorded, what is refused."""

import json

import numpy as np
import pytest
import torch

from qs_helpers.evidence import claims as results
from qs_helpers.evidence.files import write_json


def saved(run) -> dict:
    return json.loads((run.folder / "results.json").read_text(encoding="utf-8"))


def test_start_run_writes_a_complete_record(run, tmp_path):
    assert run.folder == tmp_path / "runs" / "01_load"
    data = saved(run)
    assert (data["notebook"], data["preset"], data["params"]) == ("01_load", "tiny", {"N": 3})
    assert data["peak_rss_mb"] > 10 and data["versions"]["torch"] == torch.__version__
    assert data["claims"] == data["figures"] == [] and data["values"] == {}
    assert str(tmp_path) not in repr(run) and str(tmp_path) not in json.dumps(data)


def test_a_run_by_hand_does_not_write_into_a_report(monkeypatch, tmp_path):
    monkeypatch.delenv("QS_OUT")
    monkeypatch.setattr(results, "project_root", lambda: tmp_path)
    assert results.start_run("01_load", "auto").folder == tmp_path / "runs/by-hand/tiny/01_load"
    monkeypatch.setenv("QS_OUT", "runs/elsewhere")
    assert results.start_run("01_load", "auto").folder == tmp_path / "runs/elsewhere/01_load"


@pytest.mark.parametrize(
    ("kind", "passes", "badge"),
    [
        ("empirical", True, "SHOWN     "),
        ("empirical", False, "NOT SHOWN "),
        ("empirical", None, "MEASURED  "),
        ("invariant", True, "HOLDS     "),
    ],
)
def test_badges(run, capsys, kind, passes, badge):
    results.claim("x is y", 0.12345, (0.1, 0.2), passes, n=40, kind=kind)
    assert capsys.readouterr().out == f"{badge} x is y: 0.123 [0.1, 0.2], n = 40  [tiny scope]\n"
    entry = saved(run)["claims"][0]
    assert entry["value"] == 0.12345 and entry["badge"] == badge.strip() and entry["n"] == 40


def test_broken_invariant_is_recorded_and_raises(run, capsys):
    with pytest.raises(results.ClaimFailed, match=r"invariant broken: identity \(value 0.5\)"):
        results.claim("identity", 0.5, passes=False, kind="invariant")
    assert saved(run)["claims"][0]["badge"] == "BROKEN"
    assert capsys.readouterr().out.startswith("BROKEN     identity: 0.5")


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), torch.tensor(float("nan"))])
def test_a_value_that_is_not_finite_never_passes(run, value, capsys):
    results.claim("x", value, passes=True)
    assert saved(run)["claims"][0]["value"] in ("nan", "inf")
    assert capsys.readouterr().out.startswith("NOT SHOWN")


def test_controls_anecdotes_and_other_presets(capsys):
    results.start_run("01_load", "qwen3-8b-l50")
    results.claim("x", 2, n=1, controls={"random direction": 0.0123, "no-op": 0})
    assert capsys.readouterr().out == (
        "MEASURED   x: 2, n = 1 (one example: an anecdote)\n"
        "           controls: random direction 0.0123 · no-op 0\n"
    )


def test_running_a_cell_again_replaces_its_claim(run):
    for value in (1, 2):
        results.claim("first", value)
        results.claim("second", value)
    assert [(c["text"], c["value"]) for c in saved(run)["claims"]] == [("first", 2), ("second", 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "guess"}, "claim kind 'guess': use 'empirical' or 'invariant'"),
        ({"kind": "invariant"}, "an invariant needs passes=True or passes=False"),
        ({"interval": (2, 1)}, r"claim 'x': interval \(2, 1\) is not \(low, high\)"),
        ({"interval": (float("nan"), 1)}, "is not"),
    ],
)
def test_claims_that_cannot_be_judged(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        results.claim("x", 1, **arguments)
    assert saved(run)["claims"] == []


def test_without_a_run_the_error_says_what_to_call():
    for call in (lambda: results.claim("x", 1), lambda: results.record("x", 1)):
        with pytest.raises(RuntimeError, match=r"call qs.start_run\(notebook, preset\) first"):
            call()


def test_record_and_provenance(run):
    results.record("fvu", np.arange(3) / 2)
    results.record("provenance", {"device": "cpu"})
    data = saved(run)
    assert data["values"] == {"fvu": [0.0, 0.5, 1.0]} and data["provenance"] == {"device": "cpu"}


def test_measured_prints_the_committed_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "project_root", lambda: tmp_path)
    results.measured("01_load")
    assert capsys.readouterr().out == (
        "Measured: no committed run yet (make refresh records one)\n"
    )
    record = {"seconds": 41.7, "peak_rss_mb": 1234.5, "cores": 2, "preset": "tiny"}
    write_json(tmp_path / "figures" / "01_load" / "results.json", record)
    results.measured("01_load")
    assert capsys.readouterr().out == "Measured: 42 s, 1.2 GB peak memory, 2 cores, preset tiny\n"
