"""The command line: what it refuses, says and returns."""

import subprocess
import sys
from pathlib import Path

import pytest
from toy_project import runs_of

from qs_helpers.report.__main__ import main


@pytest.mark.parametrize(
    ("given", "only", "message"),
    [
        ([("N_TEXT", "7")], None, "parameter 'N_TEXT' is in no notebook; did you mean N_TEXTS?"),
        ([("N_TEXTS", "many")], None, "N_TEXTS = 'many' is str, but int is expected"),
        ([("N_TEXTS", "1.5")], None, "N_TEXTS = 1.5 is float, but int is expected"),
        ([("PRESET", "tiny")], None, "parameter 'PRESET' is in no notebook"),
        ([("N_TEXTS", "7")], ["02"], "parameter 'N_TEXTS' is in no notebook; known: none"),
        ([], ["07"], "--only 07: known: 00_build_tiny_scope, 01_toy, 02_broken"),
        ([], ["01_tyo"], "--only 01_tyo: did you mean 01_toy?"),
    ],
)
def test_bad_arguments_run_nothing(project, monkeypatch, capsys, given, only, message):
    monkeypatch.setenv("QS_ROOT", str(project))
    argv = ["--preset", "tiny", *(["--only", *only] if only else [])]
    argv += [word for pair in given for word in ("-p", *pair)]
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not (project / "runs").exists()


def test_command_line_exit_codes(project, monkeypatch, capsys):
    monkeypatch.setenv("QS_ROOT", str(project))
    monkeypatch.chdir(project)
    assert main(["--preset", "tiny", "--only", "02"]) == 1
    captured = capsys.readouterr()
    assert captured.out == str(Path("runs/tiny/index.html")) + "\n"
    assert "02_broken failed: KeyError: 'halfway'" in captured.err
    (project / "notebooks" / "02_broken.ipynb").unlink()
    assert main(["--preset", "tiny"]) == 0


REFUSED = [
    (["--only", "07"], "known: 00_build"),
    (["--preset", "tinny"], "did you mean tiny"),
    (["-p", "SEDE", "1"], "did you mean SEED?"),
    (["-p", "N_TEXTS", "many"], "int is expected"),
    (["-p", "MODELS", "[tiny-instrct]"], "did you mean tiny-instruct"),
    (["-p", "SUITES", "[onw]"], "did you mean own"),
    (["-p", "LANGUAGES", "[]"], "LANGUAGES is empty"),
    (["-p", "PROMPTS", "[a/b, a/c]"], "only to a notebook that takes a list (--only)"),
    (
        ["--only", "06", "-p", "PROMPTS", "[a, b, c]"],
        "give tiny, natural, a csv, jsonl or txt",
    ),
    (["--only", "04", "-p", "DATA", ""], "give tiny, natural, a csv, jsonl or txt"),
    (["--only", "01", "--skip", "01"], "no notebook is left"),
]


@pytest.mark.parametrize(("argv", "words"), REFUSED)
def test_a_refusal_takes_no_longer_than_python_needs_to_start(argv, words):
    """Nothing heavy is imported before it: that, and not seconds, is what a test can hold."""
    code = (
        "import sys; from qs_helpers.report.__main__ import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'nbformat', 'papermill', 'nbconvert', 'pandas', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert ran.returncode == 2 and words in ran.stderr and ran.stdout == ""
    assert ran.stderr.count("\n") == 1


def test_help_and_dry_run(counted, monkeypatch, capsys):
    shown = subprocess.run(
        [sys.executable, "-m", "qs_helpers.report", "--help"], capture_output=True, text=True
    ).stdout
    flags = ("--preset", "--only", "--skip", "-p", "--fresh", "--jobs", "--refresh", "--dry-run")
    assert all(flag in shown for flag in (*flags, "--quiet", "examples:", "exit codes:"))
    monkeypatch.setenv("QS_ROOT", str(counted))
    assert main(["--dry-run", "--skip", "02"]) == 0
    text = capsys.readouterr().out
    assert "01_toy: run (no run yet)" in text and "N_TEXTS 4" in text and "02" not in text
    assert runs_of(counted) == 0 and not (counted / "runs").exists()
    assert main(["--jobs", "0"]) == 2
