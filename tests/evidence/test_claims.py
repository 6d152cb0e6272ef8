"""Claims, values and figures: what is printed, what is recorded, what is refused."""

import json
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from qs_helpers.evidence import claims as results
from qs_helpers.evidence import figures
from qs_helpers.evidence.files import plain, short, write_json, write_whole


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    monkeypatch.setattr(results, "_current", None)


@pytest.fixture
def run():
    return results.start_run("01_load", "tiny", {"N": 3})


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as (bundle, metadata)."""
    seen = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, raw, metadata: seen.append((data, metadata))
    )
    return seen


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


def test_figure_with_alt_text_and_csv_twin(run, shown):
    fig, ax = plt.subplots()
    ax.plot([1, 2])
    figures.save_figure(fig, "a-line", "A line from 1 to 2.", pd.DataFrame({"y": [1, 2 / 3]}))
    png = (run.folder / "figures" / "a-line.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) < figures.MAX_PNG_BYTES
    assert (run.folder / "figures" / "a-line.csv").read_text() == "y\n1\n0.666667\n"
    bundle, metadata = shown[0]
    assert metadata == {"image/png": {"alt": "A line from 1 to 2."}}
    assert bundle["text/plain"] == "A line from 1 to 2."
    assert saved(run)["figures"] == [{"slug": "a-line", "alt": "A line from 1 to 2."}]
    assert [text.get_text() for text in fig.texts] == [figures.TINY_FOOTER]
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize(
    ("slug", "alt", "data", "message"),
    [
        ("A line", "alt", [1], "figure slug 'A line': use only a-z, 0-9, - and _"),
        ("../x", "alt", [1], "figure slug"),
        ("x", " ", [1], "figure 'x' has no alt text: say in words what it shows"),
        ("x", "alt", [], "figure 'x' has no data: pass the plotted points as a DataFrame"),
    ],
)
def test_figures_that_are_refused(run, shown, slug, alt, data, message):
    with pytest.raises(ValueError, match=message):
        figures.save_figure(plt.figure(), slug, alt, pd.DataFrame({"y": data}))
    plt.close("all")
    assert saved(run)["figures"] == [] and not shown


def test_heavy_figure_is_drawn_coarser_then_refused(run, shown):
    noise = np.random.default_rng(0)
    for inches, slug in ((2.4, "noise"), (5, "big")):
        fig = plt.figure(figsize=(inches, inches))
        fig.add_axes((0, 0, 1, 1)).imshow(noise.random((700, 700, 3)), interpolation="nearest")
        if slug == "big":
            with pytest.raises(ValueError, match="figure 'big' is .* kB, above 150 kB: draw few"):
                figures.save_figure(fig, slug, "Noise.", pd.DataFrame({"y": [1]}))
        else:
            figures.save_figure(fig, slug, "Noise.", pd.DataFrame({"y": [1]}))
            size = (run.folder / "figures" / "noise.png").stat().st_size
            assert 100_000 < size <= figures.MAX_PNG_BYTES
    plt.close("all")


def test_missing_glyphs_give_one_line(run, shown, capsys, monkeypatch):
    fig, ax = plt.subplots()
    ax.set_title("\U000f0000\U000f0001")  # private-use characters, which no font has
    figures.save_figure(fig, "x", "Empty axes.", pd.DataFrame({"y": [1]}))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "in figure 'x': install Noto Sans CJK or set QS_FONT to a font file" in out


def test_plot_style_is_colour_blind_safe():
    with plt.rc_context():
        figures.plot_style()
        assert plt.rcParams["axes.prop_cycle"].by_key()["color"][:2] == ["#0072B2", "#E69F00"]
        assert plt.rcParams["image.cmap"] == "cividis"
        assert plt.rcParams["figure.facecolor"] == "white"
        assert plt.rcParams["font.family"][0] == "DejaVu Sans"


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


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["a.txt"]


def test_plain_and_short_values(tmp_path):
    assert plain({1: (np.int64(2), np.bool_(True), None)}) == {"1": [2, True, None]}
    assert plain(torch.tensor([1.5, float("inf")])) == [1.5, "inf"]
    with pytest.raises(TypeError, match="object cannot be recorded: pass numbers, text"):
        plain(object())
    assert [short(x) for x in (0.012345, 123456.7, 3, "a", True)] == [
        *("0.0123", "123,457", "3", "a", "True")
    ]
    write_json(tmp_path / "x.json", {"token": "half \udce4"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"token": "half \udce4"}
