"""Runs side by side."""

import json
import os
import shutil

import pytest
from bs4 import BeautifulSoup
from toy_project import TOY, edit_cell, loads, run_report

from qs_helpers.report.__main__ import main
from qs_helpers.report.compare import compare_runs, differs


def test_runs_are_compared(counted, capsys):
    run_report(counted, ["01"])
    changed = TOY[4].source.replace("1.0, 0.9, 1.1", "0.2, 0.1, 0.3").replace("is one", "is less")
    edit_cell(counted, 4, changed)
    edit_cell(counted, 5, TOY[5].source.replace("[1, 2, 3]", "[3, 2, 1]"))
    run_report(counted, ["01"], given=[("N_TEXTS", "9")])
    folders = [str(counted / "runs" / name) for name in ("tiny", "tiny+N_TEXTS=9")]
    assert main(["compare", *folders]) == 0
    page = counted / "runs" / "compare" / "tiny-vs-tiny+N_TEXTS=9.html"
    assert capsys.readouterr().out.strip() == os.path.relpath(page)
    soup = BeautifulSoup(page.read_text(), "html.parser")
    assert loads(page.read_text()) == []
    row = next(r for r in soup("tr") if "Is one <one>?" in r.text)
    cells = [cell.get_text(" ", strip=True) for cell in row("td")]
    assert cells == [
        "Is one <one>? one",
        "shown 1 [0.9, 1.1] n = 20 in 10 groups one is one.",
        "not shown 0.2 [0.1, 0.3] n = 20 in 10 groups one is less.",
        "verdicts differ",
    ]
    row = next(r for r in soup("tr") if "hooks-left" in r.text)
    cells = [cell.get_text(" ", strip=True) for cell in row("td")]
    assert cells[:2] == ["no hook is left hooks-left", "holds 0 no hook is left."]
    assert cells[3] == "none seen"
    assert "01_toy: parameters.N_TEXTS" in page.read_text()
    assert len(soup("img")) == 2 and all(image["alt"] for image in soup("img"))
    assert all((page.parent / a["href"]).is_file() for a in soup("a"))
    assert "Did not finish" not in page.read_text() and "In one run only" not in page.read_text()
    (counted / "runs" / "tiny" / "01_toy" / "stamp.json").unlink()  # as after kill -9
    assert main(["compare", *folders]) == 0
    assert "Did not finish</b> in tiny:" in page.read_text()
    assert main(["compare", folders[0]]) == 2
    assert main(["compare", folders[0], str(counted / "notebooks")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_runs_on_another_drive_are_linked_whole(counted, tmp_path, monkeypatch):
    """Windows has no relative path from one drive to another."""
    for given in ([], [("N_TEXTS", "9")]):
        run_report(counted, ["01"], given=given)
    folders = [counted / "runs" / name for name in ("tiny", "tiny+N_TEXTS=9")]

    def no_way(path, start=None):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", no_way)
    page = compare_runs(folders, tmp_path / "elsewhere" / "page.html")
    links = [a["href"] for a in BeautifulSoup(page.read_text(), "html.parser")("a")]
    assert [(folder / "index.html").as_uri() for folder in folders] == links[:2]
    with pytest.raises(ValueError, match="nothing holds no run; make one with qs-report"):
        compare_runs([folders[0], counted / "nothing"])


def test_comparing_two_checkouts(counted, tmp_path, monkeypatch):
    run_report(counted, ["01"])
    shutil.copytree(counted / "runs", tmp_path / "other" / "runs")
    path = tmp_path / "other" / "runs" / "tiny" / "01_toy" / "results.json"
    results = json.loads(path.read_text())
    results["claims"][0] |= {"value": 5.0, "interval": [4.9, "inf"]}
    path.write_text(json.dumps(results))
    folders = [counted / "runs" / "tiny", tmp_path / "other" / "runs" / "tiny"]
    page = compare_runs(folders, tmp_path / "page.html")
    assert "intervals lie apart" in page.read_text()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((1.0, (0.9, 1.1)), (1.0, (0.9, 1.1)), ""),
        ((1.0, (0.9, 1.1)), (1.1, (1.0, 1.2)), ""),
        ((1.0, (0.9, 1.1)), (2.0, (1.9, 2.1)), "intervals lie apart"),
        ((1.0, None), (1.5, None), "values differ"),
        ((1.0, None), (1.0, None), ""),
        ((0.0, (0.0, 0.0)), (1.0, (1.0, 1.0)), "values differ"),
    ],
)
def test_what_counts_as_a_difference(first, second, words):
    entries = [{"badge": "SHOWN", "value": v, "interval": i} for v, i in (first, second)]
    assert differs(entries) == words
    assert differs([entries[0], None]) == "not in every run"
    other = entries[1] | {"badge": "NOT SHOWN"}
    assert differs([entries[0], other]) == "verdicts differ"
