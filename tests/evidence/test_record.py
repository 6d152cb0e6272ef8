"""The record of a run: where it is kept, and what it holds."""

import json

import numpy as np
import pytest
import torch

from qs_helpers.evidence import claims, record
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
    monkeypatch.setenv("QS_ROOT", str(tmp_path))
    assert record.start_run("01_load", "auto").folder == tmp_path / "runs/by-hand/tiny/01_load"
    monkeypatch.setenv("QS_RUNS", str(tmp_path / "scratch"))
    assert record.start_run("01_load", "auto").folder == tmp_path / "scratch/by-hand/tiny/01_load"
    monkeypatch.delenv("QS_RUNS")
    monkeypatch.setenv("QS_OUT", "runs/elsewhere")
    assert record.start_run("01_load", "auto").folder == tmp_path / "runs/elsewhere/01_load"


def test_a_new_run_forgets_what_the_last_one_announced(run):
    claims.announce({"a": {"asks": "Is it?"}})
    assert run.announced and not record.start_run("01_load", "tiny").announced


def test_record_and_provenance(run):
    record.record("fvu", np.arange(3) / 2)
    record.record("provenance", {"device": "cpu"})
    data = saved(run)
    assert data["values"] == {"fvu": [0.0, 0.5, 1.0]} and data["provenance"] == {"device": "cpu"}


def test_an_entry_takes_the_place_of_the_one_with_its_key(run):
    for slug, alt in (("a", "1"), ("b", "2"), ("a", "3")):
        record.add_entry(run, "figures", {"slug": slug, "alt": alt}, "slug")
    assert [(f["slug"], f["alt"]) for f in saved(run)["figures"]] == [("a", "3"), ("b", "2")]


@pytest.mark.parametrize(
    "call",
    [
        lambda: record.record("x", 1),
        lambda: claims.announce({"x": {"asks": "Is it?"}}),
        lambda: claims.claim("x", "It is", 1),
        lambda: claims.holds("x", "It is", True),
    ],
)
def test_without_a_run_the_error_says_what_to_call(call):
    with pytest.raises(RuntimeError, match=r"call qs.start_run\(notebook, preset\) first"):
        call()


def test_measured_prints_the_committed_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "project_root", lambda: tmp_path)
    record.measured("01_load")
    assert capsys.readouterr().out == (
        "Measured: no committed run yet (make refresh records one)\n"
    )
    kept = {"seconds": 41.7, "peak_rss_mb": 1234.5, "cores": 2, "preset": "tiny"}
    write_json(tmp_path / "figures" / "01_load" / "results.json", kept)
    record.measured("01_load")
    assert capsys.readouterr().out == "Measured: 42 s, 1.2 GB peak memory, 2 cores, preset tiny\n"
