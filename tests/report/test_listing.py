"""The list of parameters: all of them, with type, value and help."""

import json
import subprocess
import sys
from pathlib import Path
from unicodedata import east_asian_width

import pytest

from qs_helpers.presets import preset_names, read_yaml
from qs_helpers.report.__main__ import main
from qs_helpers.report.listing import list_parameters, listing_text
from qs_helpers.report.run import Preset, declared

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
OF_SOME_PRESETS = ("00_build_tiny_scope", "10_train_suite")  # what makes models and suites


@pytest.mark.parametrize("name", preset_names(NOTEBOOKS / "params"))
def test_every_parameter_of_every_notebook_has_help(name):
    preset = Preset(name, NOTEBOOKS / "params")
    every = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    stems = [s for s in every if s not in OF_SOME_PRESETS or s in preset.sections]
    rows = list_parameters(name, stems)
    assert [r for r in rows if not r["help"] or "None:" in r["help"]] == []
    assert list(dict.fromkeys(row["notebook"] for row in rows)) == stems
    for stem in stems:
        own = {row["name"]: row for row in rows if row["notebook"] == stem}
        assert own.keys() == declared(NOTEBOOKS / f"{stem}.ipynb").keys()
        assert {n: row["value"] for n, row in own.items()} == preset.values(stem)
        for row in own.values():
            kind, _, items = row["type"].partition(" of ")
            assert type(row["value"]).__name__ == kind
            values = row["value"] if kind == "list" else []
            assert all(type(value).__name__ == items for value in values)
    lines = listing_text(name, rows).splitlines()
    columns = [sum(1 + (east_asian_width(sign) in "WF") for sign in line) for line in lines]
    assert 80 < max(columns) <= 100


def test_help_comes_from_the_cell_else_from_the_preset(counted):
    cell = 'PRESET: str = "auto"  # scope\nSIGN: str = "#"  # one # sign\nBARE: int = None'
    nb = json.loads((counted / "notebooks" / "01_toy.ipynb").read_text())
    nb["cells"][1]["source"] = cell
    nb["cells"][2]["source"] += "\ncfg.DOCS, cfg.LONG, cfg.PLAIN, cfg.SEED"
    (counted / "notebooks" / "01_toy.ipynb").write_text(json.dumps(nb))
    (counted / "notebooks" / "params" / "tiny.yaml").write_text(
        'common:\n  SEED: 3   # of every choice\n01_toy:\n  SIGN: "a # b"  # not this\n'
        '  BARE: 4  # "#4"\n  DOCS:   # each is one\n    - a # of the first\n    - "#b"\n'
        "  LONG: [1,  # of both\n    2]  # of the last\n  PLAIN: c#d\n"
    )
    rows = list_parameters("tiny", ["01"], root=counted)
    told = {row["name"]: (row["type"], row["value"], row["help"]) for row in rows}
    assert told == {
        "SIGN": ("str", "a # b", "one # sign"),
        "BARE": ("int", 4, '"#4"'),
        "SEED": ("int", 3, "of every choice"),
        "DOCS": ("list of str", ["a", "#b"], "each is one"),
        "LONG": ("list of int", [1, 2], "of both"),
        "PLAIN": ("str", "c#d", ""),
    }
    assert list(told) == ["SIGN", "BARE", "SEED", "DOCS", "LONG", "PLAIN"]


def test_text_and_json_say_the_same(capsys):
    assert main(["--list", "03", "--preset", "tiny", "-p", "N_PROMPTS", "7"]) == 0
    text = capsys.readouterr().out
    assert main(["--list", "03", "--json", "--preset", "tiny", "-p", "N_PROMPTS", "7"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["preset"] == "tiny" and "  N_PROMPTS: int = 7  " in text
    words = " ".join(text.split())
    for row in made["parameters"]:
        value = json.dumps(row["value"], ensure_ascii=False)
        assert f"{row['name']}: {row['type']} = {value} {row['help']}" in words
        assert read_yaml(value) == row["value"]  # so may -p be given
    assert main(["--list", "--preset", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert "\n01_load\n" in shown and "\n10_train_suite\n" in shown and "00_build" not in shown
    assert main(["--list", "--preset", "qwen3-8b-l50", "--skip", "03"]) == 0
    shown = capsys.readouterr().out
    assert "\n03_steer\n" not in shown and "\n10_train_suite\n" not in shown


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--list", "99"], "--list 99: known: 00_build_tiny_scope, 01_load"),
        (["--list", "03", "03_stere"], "--list 03_stere: did you mean 03_steer?"),
        (["--list", "--preset", "tinny"], "did you mean tiny"),
        (["--list", "10", "--preset", "qwen3-8b-l50"], "of 10_train_suite; see tiny.yaml"),
        (["--list", "01", "-p", "N_TEXT", "7"], "did you mean N_TEXTS or TEXTS?"),
        (["--json"], "--json goes with --list"),
    ],
)
def test_a_wrong_list_is_refused_in_a_line(capsys, argv, words):
    assert main(argv) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_list_imports_nothing_heavy():
    code = (
        "import sys; from qs_helpers.report.__main__ import main; code = main(['--list'])\n"
        "heavy = {'torch', 'nbformat', 'papermill', 'nbconvert', 'pandas', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0 and "\n01_load\n" in ran.stdout and ran.stderr == ""
