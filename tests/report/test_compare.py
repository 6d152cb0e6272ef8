"""Runs side by side."""

import csv
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from toy_project import TOY, edit_cell, loads, run_report

from qs_helpers.report.__main__ import main
from qs_helpers.report.compare import compare_runs, differs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def rows_of(soup, id):
    """The cells of each run in the block of a claim, and what is said of it."""
    block = next(b for b in soup("tbody") if b.find("small", string=id))
    head, *rows = block("tr")
    cells = [[cell.get_text(" ", strip=True) for cell in row(["th", "td"])] for row in rows]
    return cells, head("td")[-1].get_text(" ", strip=True), block


def folded(tag) -> bool:
    return tag.find_parent("details") is not None


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
    cells, said, block = rows_of(soup, "one")
    assert cells == [
        ["tiny", "shown", "1 [0.9, 1.1]", "", "20 in 10 groups", "one is one."],
        ["tiny+N_TEXTS=9", "not shown", "0.2 [0.1, 0.3]", "", "20 in 10 groups", "one is less."],
    ]
    assert said == "verdicts differ dashed: 0.5" and not folded(block)
    assert [svg["aria-label"] for svg in block("svg")] == [
        "tiny: 1 [0.9, 1.1], shown; the scale is 0.1 to 1.1, threshold 0.5",
        "tiny+N_TEXTS=9: 0.2 [0.1, 0.3], not shown; the scale is 0.1 to 1.1, threshold 0.5",
    ]
    cells, said, block = rows_of(soup, "hooks-left")
    assert cells[0] == ["tiny", "holds", "0", "", "", "no hook is left."] and folded(block)
    assert said == "no difference seen" and not block("svg")
    assert "01_toy: parameters.N_TEXTS" in page.read_text()
    assert len(soup("img")) == 2 and all(image["alt"] for image in soup("img"))
    assert all((page.parent / a["href"]).is_file() for a in soup("a") if a["href"][0] != "#")
    assert "Not compared" not in page.read_text()
    table = csv.DictReader(page.with_suffix(".csv").read_text().splitlines())
    found = {(row["id"], row["run"]): row for row in table}
    row = found["one", "tiny+N_TEXTS=9"]
    assert (row["badge"], row["value"], row["low"], row["high"]) == (
        "NOT SHOWN",
        "0.2",
        "0.1",
        "0.3",
    )
    assert row["differs"] == "verdicts differ" and len(found) == 4
    about = json.loads(page.with_suffix(".json").read_text())
    assert about["runs"] == ["tiny", "tiny+N_TEXTS=9"] and about["notes"] == []
    assert about["claims"][0]["entries"]["tiny"]["interval"] == [0.9, 1.1]
    assert main(["compare", folders[0]]) == 2
    assert main(["compare", folders[0], str(counted / "notebooks")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["compare", *folders, "-o", str(counted / "page.csv")]) == 2
    assert "page.csv: give a page, as page.html" in capsys.readouterr().err
    assert not (counted / "page.csv").exists()


def write_run(folder, claims, stem="01_toy", **changed):
    """A run as a report leaves it, of one notebook with these claims."""
    results = {"notebook": stem, "preset": "mine", "params": {}, "seconds": 1.0, "cores": 2}
    results |= {"started": "2026-11-01T00:00:00+00:00", "peak_rss_mb": 1.0, "claims": claims}
    results |= {"versions": {"qs-helpers": "0.2"}, "answer": {"text": "So it is.", "hero": None}}
    path = folder / stem / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results | changed))
    return path


def claim(id="one", **changed):
    entry = {"id": id, "asks": "Is it one?", "kind": "empirical", "badge": "SHOWN", "value": 1.0}
    entry |= {"interval": [0.9, 1.1], "n": 20, "groups": 20, "family": 1, "above": 0.5}
    return entry | {"below": None, "needs": "above 0.5", "sentence": f"It is {id}"} | changed


def compared(*folders):
    """The page of runs as soup, and its JSON."""
    page = compare_runs(list(folders), folders[0].parent / "page.html")
    found = json.loads(page.with_suffix(".json").read_text())
    return BeautifulSoup(page.read_text(), "html.parser"), found


def test_what_differs_stands_first_and_the_rest_is_folded(tmp_path):
    away, apart = {"interval": [1.9, 2.1], "value": 2.0}, {"badge": "NOT SHOWN"}
    number = {"interval": None, "badge": "MEASURED"}
    pairs = {
        "same": ({}, {}),
        "asked": ({}, {"needs": "above 0.9"}),
        "number": (number, number | {"value": 2.0}),
        "away": ({}, away),
        "verdict": ({}, apart),
    }
    for place, name in enumerate(("a", "b")):
        entries = [claim(id, **changes[place]) for id, changes in pairs.items()]
        held = {"kind": "invariant", "interval": None, "value": float(place), "badge": "HOLDS"}
        entries.append(claim("holds", **held))
        write_run(tmp_path / name, [*entries, claim(f"only-{name}")])
    soup, found = compared(tmp_path / "a", tmp_path / "b")
    order = [b.find("small").text for b in soup("tbody") if b.find("svg") and not folded(b)]
    assert order == ["verdict", "away", "asked"]
    shown = {id: folded(rows_of(soup, id)[2]) for id in (*pairs, "holds", "only-a", "only-b")}
    assert [id for id in shown if not shown[id]] == ["asked", "number", "away", "verdict"]
    assert "Of 5 claims that at least two runs have: verdicts differ in 1, intervals lie apart" in (
        " ".join(soup.find("h1").find_next("p").text.split())
    )
    differs = {row["id"]: row["differs"] for row in found["claims"]}
    assert differs["only-a"] == "in one run only" and differs["same"] == ""
    assert differs["asked"] == "asked differently"
    assert "Needs: above 0.9." in rows_of(soup, "asked")[0][1][-1]


def test_a_forest_has_all_runs_on_one_scale(tmp_path):
    spans = [(0.0, (-1.0, 1.0)), (2.0, (1.0, "inf")), ("nan", None)]
    for name, (value, span) in zip("abc", spans, strict=True):
        write_run(tmp_path / name, [claim(value=value, interval=span, family=1 + (name == "b"))])
    write_run(tmp_path / "d", [claim("other")])
    soup, _ = compared(*(tmp_path / name for name in "abcd"))
    cells, said, block = rows_of(soup, "one")
    assert [row[0] for row in cells] == ["a", "b", "c"] and "not in d" in said
    assert "simultaneous for another number of claims: 1 in a, 2 in b, 1 in c" in said
    # From -1 to 2, with 4 of 100 left on both sides; what has no end goes to the edge.
    bars = [[float(line[x]) for x in ("x1", "x2")] for line in block("line", class_="bar")]
    assert bars == [[4, 65.33], [65.33, 100]]
    assert [float(line["x1"]) for line in block("line", class_="dot")] == [34.67, 96]
    assert {float(line["x1"]) for line in block("line", class_="threshold")} == {50}
    assert len(block("svg")) == 3 and all(svg["aria-label"] for svg in block("svg"))
    soup, _ = compared(tmp_path / "a", tmp_path / "c")  # one interval is nothing to compare
    assert not soup("svg")


def test_what_cannot_be_compared_is_said(counted, tmp_path):
    run_report(counted, ["01"])
    run = counted / "runs" / "tiny"
    old = shutil.copytree(run, tmp_path / "old")
    first = {"text": "one is one", "kind": "empirical", "badge": "SHOWN", "passes": True}
    first |= {"value": 1.0, "interval": [0.9, 1.1], "n": 20, "controls": {}}
    unasked = {name: x for name, x in claim().items() if name not in ("asks", "needs", "family")}
    write_run(old, [first, first], versions={"qs-helpers": "0.1"})
    (old / "02_broken").mkdir()
    (old / "02_broken" / "results.json").write_text('{"claims": [')
    soup, found = compared(run, old)
    assert found["notes"] == [
        f"Different versions of the project (tiny {version('qs-helpers')}, old 0.1): the same id "
        "may be measured otherwise.",
        "01_toy of old: 2 of its 2 claims have no id, as in the first edition of the project, and "
        "are joined with none.",
        "02_broken of old: its results.json is not whole, and is left out.",
    ]
    assert [li.text for li in soup.main.find("ul")("li")] == found["notes"]
    assert "These runs have no claim in common." in soup.text
    write_run(old, [unasked], versions={})
    soup, found = compared(run, old)
    assert "old unknown" in found["notes"][0]
    assert "01_toy of old: its claims are of an edition that did not record" in found["notes"][1]
    assert rows_of(soup, "one")[1].startswith("no difference seen")
    write_run(old, [claim()], params=None)
    path = write_run(old, [], "02_broken")
    path.write_text('{"claims": [], "seconds": 1}')
    write_run(old, [], "03_alone")
    (run / "01_toy" / "stamp.json").unlink()  # as after kill -9
    _, found = compared(run, old)
    assert found["notes"][-3:] == [
        "01_toy of tiny: it did not finish; what it recorded before is compared.",
        "02_broken of old: its results.json lacks params, started, peak_rss_mb, cores, versions, "
        "and is left out.",
        "In one run only, and not below: 03_alone (old).",
    ]


def test_a_notebook_that_failed_half_way_is_said_with_its_error(project):
    run_report(project)
    shutil.copytree(project / "runs" / "tiny", project / "runs" / "B")
    for name in ("tiny", "B"):
        now = {"qs-helpers": version("qs-helpers")}
        write_run(project / "runs" / name, [claim()], "02_broken", versions=now)
    soup, found = compared(project / "runs" / "tiny", project / "runs" / "B")
    assert found["notes"][0] == (
        "02_broken of tiny: it stopped half-way (KeyError: 'halfway'); what it recorded before is "
        "compared."
    )
    assert rows_of(soup, "one")[0][1][1] == "shown"
    for name in ("tiny", "B"):  # before it recorded anything
        shutil.rmtree(project / "runs" / name / "02_broken")
    _, found = compared(project / "runs" / "tiny", project / "runs" / "B")
    assert found["notes"][1] == "02_broken of B: KeyError: 'halfway'."


def test_the_committed_runs_of_two_models_are_compared(tmp_path):
    """tiny and smollm2: every claim that both have is on the page once, and all of it is shown."""
    figures = Path(__file__).resolve().parents[2] / "figures"
    page = compare_runs([figures, figures / "smollm2"], tmp_path / "page.html")
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    found = json.loads(page.with_suffix(".json").read_text("utf-8"))
    for path in sorted((figures / "smollm2").glob("*/results.json")):
        stem, read = path.parent.name, [json.loads(path.read_text("utf-8"))]
        read.append(json.loads((figures / stem / "results.json").read_text("utf-8")))
        ids = [{claim["id"]: claim for claim in results["claims"]} for results in read]
        rows = {row["id"]: row for row in found["claims"] if row["notebook"] == stem}
        assert rows.keys() == ids[0].keys() | ids[1].keys()
        for id, row in rows.items():
            both = id in ids[0] and id in ids[1]
            assert (row["differs"] == "in one run only") == (not both)
            badges = {claims[id]["badge"] for claims in ids if id in claims}
            assert (row["differs"] == "verdicts differ") == (len(badges) > 1)
        drawn = [id for id in ids[0] if all(i.get(id, {}).get("interval") for i in ids)]
        part = soup.find("h2", id=stem).find_next_siblings()
        ends = [i for i, tag in enumerate(part) if tag.name == "h2"] or [len(part)]
        assert sum(len(tag("svg")) for tag in part[: ends[0]]) == 2 * len(drawn)
    assert len(soup("svg")) > 50 and not any(svg.find("image") for svg in soup("svg"))
    assert loads(page.read_text("utf-8")) == [] and page.stat().st_size < 3_000_000
    assert all(table.find_parent("div", class_="scroll") for table in soup("table"))
    assert all(region["aria-label"] for region in soup("div", class_="scroll"))
    assert len(soup("img")) == 2 * len(list((figures / "smollm2").glob("*/results.json")))
    assert all(len(image["alt"]) > 20 for image in soup("img"))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out_of_the_page(tmp_path, width):
    """With all of it unfolded; what is wide scrolls in its own place."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    for name in ("a", "a-run-with-a-name-as-long-as-names-of-runs-with-parameters=1,2,3"):
        write_run(tmp_path / name, [claim(sentence="long " * 60)], params={"TEXTS": name * 9})
    page = compare_runs(sorted(p for p in tmp_path.iterdir()), tmp_path / "page.html")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 900})
        shown.goto(page.as_uri())
        shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        wide = shown.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        strips = "[...document.querySelectorAll('.plot svg')].map(s => s.clientWidth)"
        widths = shown.evaluate(strips)
        browser.close()
    assert wide <= 0 and len(widths) == 2 and min(widths) > 100


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
    asked = [entry | {"asks": f"Is it {n}?"} for n, entry in enumerate(entries)]
    assert differs(asked) == (words or "asked differently")
    other = entries[1] | {"badge": "NOT SHOWN"}
    assert differs([entries[0], other]) == "verdicts differ"
