"""Headline claims are computed again from their samples, and what does not agree is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
from toy_project import TOY, edit_cell, run_report

from qs_helpers.evidence.claims import announce, claim
from qs_helpers.evidence.record import start_run
from qs_helpers.evidence.stats import mean, share
from qs_helpers.report.__main__ import main
from qs_helpers.report.run import BUILD

ROOT = Path(__file__).resolve().parents[2]
HITS, TEXTS = [1, 0, 1, 1] * 10, [f"text {i // 2}" for i in range(40)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of runs with one, of two headline claims and one that is none."""
    monkeypatch.setenv("QS_OUT", str(tmp_path))
    run = start_run("03_steer", "tiny")
    asks = {"asks": "Is it?"}
    announce({"often": asks | {"family": ["de", "fr"]}, "size": asks, "rest": asks})
    samples = {"by": "share", "hits": HITS, "groups": TEXTS}
    claim("often/fr", "Often", share(HITS, TEXTS, 2), samples=samples)
    claim("size", "Large", mean(HITS), samples={"by": "mean", "values": HITS})
    claim("rest", "The rest", 0.5)
    edit_results(tmp_path, lambda results: results.update(answer={"text": "Yes.", "hero": "x"}))
    assert run.folder == tmp_path / "03_steer"
    return tmp_path


def edit_results(folder, change):
    path = folder / "03_steer" / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def verify(folder, capsys) -> tuple[int, str]:
    code = main(["verify", str(folder)])
    return code, capsys.readouterr().out.strip()


def test_claims_agree_in_a_folder_of_runs_and_in_one_of_them(folder, capsys):
    said = 0, "03_steer: 2 of 2 headline claims agree"
    assert verify(folder, capsys) == verify(folder / "03_steer", capsys) == said


def test_a_missing_file_is_named(folder, capsys):
    (folder / "03_steer" / "claims" / "size.csv").unlink()
    code, said = verify(folder, capsys)
    assert code == 1 and said.startswith("03_steer: 1 of 2 headline claims agree; size: cannot be")
    assert "claims/size.csv: No such file" in said and "often" not in said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"1.0", b"0.0", "differs: 0.75 [0.6, 0.875] recorded, 0.725 [0.575, "),
        (b"1.0", b"1.00", "differs: claims/size.csv is not the file that the run wrote"),
        (b"1.0", b"many", "cannot be recomputed: claims/size.csv: could not convert string"),
        (b"1.0", b'1.0,"x"', "cannot be recomputed: claims/size.csv: 40 lines below the names"),
        (b"values", b"sizes", "cannot be recomputed: claims/size.csv: mean() got an unexpected"),
    ],
)
def test_a_file_that_was_edited_is_named(folder, capsys, old, new, says):
    path = folder / "03_steer" / "claims" / "size.csv"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    code, said = verify(folder, capsys)
    assert code == 1 and f"03_steer: 1 of 2 headline claims agree; size: {says}" in said


def test_an_edited_estimate_is_named_with_both_numbers(folder, capsys):
    edit_results(folder, lambda results: results["claims"][1].update(value=0.8))
    code, said = verify(folder, capsys)
    assert code == 1 and "size: differs: 0.8 [" in said and "recorded, 0.75 [" in said
    assert "not the file" not in said


def test_a_run_that_failed_half_way_is_named(folder, capsys):
    edit_results(folder, lambda results: results.pop("answer"))
    said = "03_steer: 2 of 2 headline claims agree; it did not reach its end"
    assert verify(folder, capsys) == (1, said)


def test_results_of_the_first_edition_have_nothing_to_recompute(tmp_path, capsys):
    old = {"notebook": "01_load", "claims": [{"text": "x", "badge": "SHOWN"}]}
    (tmp_path / "01_load").mkdir()
    (tmp_path / "01_load" / "results.json").write_text(json.dumps(old))
    said = "01_load: no headline claim with samples; it did not reach its end"
    assert verify(tmp_path, capsys) == (1, said)


def test_where_nothing_was_recomputed_nothing_is_verified(folder, capsys):
    edit_results(folder, lambda results: results.update(claims=results["claims"][2:]))
    assert verify(folder, capsys) == (1, "03_steer: no headline claim with samples")


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    told = f"qs-report: {os.path.relpath(tmp_path)} holds no run; make one with qs-report\n"
    assert captured.err == told and captured.out == ""


def test_samples_go_along_with_a_report_and_a_refresh(counted, capsys):
    samples = 'samples={"by": "mean", "values": [1.0, 0.5]}'
    first = TOY[4].source.replace("qs.Estimate(1.0, 0.9, 1.1, 20, 10)", f"0.75, {samples}")
    edit_cell(counted, 4, first)
    run_report(counted, ["01"], refresh=True)
    report, committed = counted / "runs" / "tiny", counted / "figures"
    for folder in (report, committed / "01_toy", committed):
        shutil.copy(report / "01_toy" / "stamp.json", committed / "01_toy")  # it has no answer
        assert verify(folder, capsys) == (0, "01_toy: 1 of 1 headline claims agree")
    path = committed / "01_toy" / "claims" / "one.csv"
    assert path.read_bytes() == b'"values"\n1.0\n0.5\n'

    path.write_text("edited")  # is a stale output, although a figure is called like it
    assert run_report(counted, ["01"], refresh=True)[1][0].kept and path.read_text() != "edited"
    edit_cell(counted, 4, TOY[4].source)
    run_report(counted, ["01"], refresh=True)
    assert not path.parent.exists() and not (report / "01_toy" / "claims").exists()


COMMITTED = sorted(p for p in (ROOT / "figures").glob("[0-9]*") if p.name != BUILD)


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda p: p.name)
def test_headline_claims_of_the_committed_runs_can_be_computed_again(folder, capsys):
    """If this fails: `make refresh` runs what is stale."""
    code, said = verify(folder, capsys)
    assert code == 0, said
    files = list((folder / "claims").glob("*.csv"))
    claims = json.loads((folder / "results.json").read_text(encoding="utf-8"))["claims"]
    assert {f"claims/{p.name}" for p in files} == {
        c["samples"]["file"] for c in claims if "samples" in c
    }
    assert all(path.stat().st_size <= 100_000 for path in files)


def test_the_committed_runs_agree(capsys):
    code, said = verify(ROOT / "figures", capsys)
    assert code == 0 and len(said.splitlines()) == 1 + len(COMMITTED), said
