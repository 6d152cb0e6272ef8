"""The command line: what it refuses, says and returns."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy_project import edit_cell, runs_of

from qs_helpers.loading.catalog import TINY
from qs_helpers.report import __main__
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
    (["--only", "99"], "known: 00_build"),
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
    flags = (
        "--preset",
        "--only",
        "--skip",
        "-p",
        "--fresh",
        "--jobs",
        "--refresh",
        "--dry-run",
        "--list",
    )
    assert all(flag in shown for flag in (*flags, "--quiet", "examples:", "exit codes:"))
    monkeypatch.setenv("QS_ROOT", str(counted))
    assert main(["--dry-run", "--skip", "02"]) == 0
    text = capsys.readouterr().out
    assert "01_toy: run (no run yet)" in text and "N_TEXTS 4" in text and "02" not in text
    assert runs_of(counted) == 0 and not (counted / "runs").exists()
    assert main(["--jobs", "0"]) == 2


def test_the_worked_examples_of_the_help_are_plans(tmp_path, monkeypatch, capsys):
    """Each command of a heading "your …" is accepted as it stands; nothing is run."""
    parts = [part for part in __main__.EXAMPLES.split("\n\n") if part.startswith("your ")]
    assert [part.split(":")[0] for part in parts] == ["your texts", "your feature", "your model"]
    root, project = Path(__file__).resolve().parents[2], tmp_path / "project"
    shutil.copytree(root / "notebooks", project / "notebooks")
    (project / "texts.csv").write_text("text\nA text.\n")
    shutil.copytree(TINY["tiny"] / "model", tmp_path / "my-model")
    shutil.copytree(TINY["tiny"] / "sae", tmp_path / "my-saes")
    for layer in (8, 17, 26):  # of the preset that is copied
        shutil.copy(tmp_path / "my-saes/layer0.sae.pt", tmp_path / f"my-saes/layer{layer}.sae.pt")
    monkeypatch.setenv("QS_ROOT", str(project))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(project)
    for line in "\n".join(parts).splitlines():
        if line.startswith("  cp "):
            preset = Path(shutil.copy(*shlex.split(line)[1:]))
        elif line.startswith("      "):
            text = preset.read_text("utf-8")
            preset.write_text(text.replace("\nscope:", f"\nscope:\n{line[4:]}\n#", 1), "utf-8")
        elif line.startswith("  qs-report "):
            main([*shlex.split(line)[1:], "--dry-run"])  # there may be too little memory here
            said = capsys.readouterr()
            assert said.out.startswith("preset "), said.err
    assert "preset mine" in said.out


def command(project, *argv, code="", **how) -> subprocess.CompletedProcess:
    """The command line in a process of its own; code: run before it."""
    code = f"import sys; {code or 'pass'}\nfrom qs_helpers.report.__main__ import main\n"
    argv = [sys.executable, "-c", f"{code}sys.exit(main(sys.argv[1:]))", "--preset", "tiny", *argv]
    env = os.environ | {"QS_ROOT": str(project)} | how.pop("env", {})
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    ran = subprocess.run(argv, env=env, cwd=project, timeout=120, **how)
    said = (ran.stderr or b"").decode(errors="replace")
    assert "Traceback" not in said and "Exception ignored" not in said, said
    return ran


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "cp1252", "koi8-r", "utf-8", "utf-16"])
def test_a_plan_is_shown_on_any_terminal(counted, encoding):
    """Signs that it lacks are shown as their numbers."""
    (counted / "notebooks" / "params" / "tiny.yaml").write_text(
        "01_toy:\n  N_TEXTS: 4\n  REVISION: суп 汤 é\n", encoding="utf-8"
    )
    ran = command(counted, "--dry-run", env={"PYTHONIOENCODING": encoding})
    shown = "N_TEXTS 4 · REVISION суп 汤 é"
    expected = shown.encode(encoding, "backslashreplace").removeprefix(b"\xff\xfe")
    assert ran.returncode == 0 and expected in ran.stdout and ran.stderr.count(b"\n") == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a full device")
def test_what_nobody_can_read_breaks_nothing(counted):
    with open("/dev/full", "wb") as full:
        assert command(counted, "--dry-run", stdout=full).returncode == 0
        assert command(counted, "--only", "07", stderr=full).returncode == 2
        env = {"TQDM_DISABLE": ""}
        assert command(counted, "--only", "01", env=env, stdout=full, stderr=full).returncode == 0
    assert runs_of(counted) == 1
    reading, writing = os.pipe()
    os.close(reading)  # as after "| head"
    assert command(counted, "--dry-run", stdout=writing).returncode == 0
    assert command(counted, "--only", "01", stdout=writing, stderr=writing).returncode == 0
    os.close(writing)
    results = json.loads((counted / "runs" / "tiny" / "results.json").read_text())
    assert [n["status"] for n in results["notebooks"]] == ["done"] and runs_of(counted) == 1


@pytest.mark.skipif(os.name == "nt", reason="there is no limit to the size of files")
@pytest.mark.parametrize("limit", [6000, 9000])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(counted, limit):
    """Files above a size cannot be written, as on a disk that has no more room than that."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    ran = command(counted, "-q", code=limit)
    assert ran.returncode == 1
    (line,) = ran.stderr.decode().splitlines()
    assert "File too large" in line and "runs/tiny/" in line
    assert "the same command goes on from here" in line
    for path in (counted / "runs").rglob("*"):
        assert path.is_dir() or not path.name.startswith(".") or path.name == ".lock"
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_text("utf-8"))
        if path.suffix == ".html":
            assert "<!-- made of" in path.read_text("utf-8").splitlines()[-1]
    assert command(counted, "-q").returncode == 0  # there is room again


def test_a_plan_and_a_report_may_be_on_another_drive(counted, monkeypatch, capsys):
    def no_way(path, start=None):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setenv("QS_ROOT", str(counted))
    monkeypatch.setattr(os.path, "relpath", no_way)
    out = counted / "runs" / "tiny"
    assert main(["--dry-run"]) == 0
    assert f"preset tiny, to {out}\n" in capsys.readouterr().out
    assert main(["--only", "01"]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"


def test_runs_elsewhere_leave_the_project_as_it_was(counted, monkeypatch, capsys):
    """Also what a notebook writes by itself, and where the path is relative."""
    source = "import qs_helpers as qs\nfrom qs_helpers.presets import runs_folder\n"
    edit_cell(counted, 6, source + "qs.record('runs', str(runs_folder()))")
    monkeypatch.setenv("QS_ROOT", str(counted))
    monkeypatch.setenv("QS_RUNS", "scratch")
    (counted / "here").mkdir()
    monkeypatch.chdir(counted / "here")
    for _ in range(2):
        assert main(["--only", "01"]) == 0
        assert Path(capsys.readouterr().out.strip()) == Path("scratch/tiny/index.html")
    results = json.loads(Path("scratch/tiny/01_toy/results.json").read_text("utf-8"))
    assert results["values"]["runs"] == str(counted / "here" / "scratch")
    assert not (counted / "runs").exists()


def test_a_broken_record_is_named(counted, monkeypatch, capsys):
    monkeypatch.setenv("QS_ROOT", str(counted))
    stamp = counted / "runs" / "tiny" / "01_toy" / "stamp.json"
    stamp.parent.mkdir(parents=True)
    stamp.write_text('{"code": ')
    assert main(["--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "01_toy/stamp.json is not JSON; remove it, and its notebook runs again" in said
