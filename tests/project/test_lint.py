"""Lint sees everything: its commands, and what import-linter and the formatter cannot tell."""

import ast
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "qs_helpers"
FILES = [
    path
    for folder in ("qs_helpers", "tests", "benchmarks", "notebooks")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in path.parts
]

# Imports of our own modules inside functions: importer, imported, and why not at the top.
LATE = {
    ("report.__main__", "report.execute"): "--help and a wrong command answer at once",
    ("report.__main__", "report.compare"): "--help and a wrong command answer at once",
    ("report.__main__", "report.verify"): "--help and a wrong command answer at once",
    ("report.execute", "report.pages"): "a dry run writes no page",
    ("report.execute", "report.refresh"): "only --refresh commits",
    ("loading.hub", "loading.saefile"): "a report's check runs without torch, which comes with it",
}


def makefile_lint() -> list[str]:
    """The commands of `make lint`, as one would type them."""
    recipe = re.search(
        r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M
    )[1]
    lines = [line.strip().removeprefix("@") for line in recipe.splitlines()]
    lines = [re.sub(r"^\$\(call quietly,(.*)\)$", r"\1", line) for line in lines]
    return [line.replace("$(BIN)", ".venv/bin") for line in lines]


def late_imports() -> set[tuple[str, str]]:
    """(importer, imported) for each import of our own inside a function, without qs_helpers."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        module = ".".join(parts)
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    names = [name.name for name in node.names]
                    found |= {(module, name) for name in names if name.startswith("qs_helpers")}
                elif isinstance(node, ast.ImportFrom):
                    start = list(parts[: len(parts) - node.level]) if node.level else []
                    start += (node.module or "").split(".") if node.module else []
                    for target in (".".join([*start, name.name]) for name in node.names):
                        target = target.removeprefix("qs_helpers.")
                        if node.level or (node.module or "").startswith("qs_helpers"):
                            found.add((module, as_module(target)))
    return found


def as_module(name: str) -> str:
    """report.execute.plan_report -> report.execute: the longest beginning that is a module."""
    parts = name.split(".")
    while parts and not (
        (PACKAGE.joinpath(*parts).with_suffix(".py")).is_file()
        or PACKAGE.joinpath(*parts, "__init__.py").is_file()
    ):
        parts.pop()
    return ".".join(parts)


def test_pre_commit_runs_what_make_lint_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == makefile_lint()
    for hook in hooks:
        assert (hook["language"], hook["pass_filenames"], hook["always_run"]) == (
            "system",
            False,
            True,
        )


def test_the_workflow_runs_the_commands_of_the_readme():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["check"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^make \w+", readme.split("```")[1], re.M)
    assert [step["run"] for step in job["steps"] if "make " in step.get("run", "")] == commands
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_the_picture_of_the_rooms_is_the_contract():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = text.split("## The rooms")[1].split("```")[1].strip().splitlines()
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    shown = [re.split(r"\s{2,}(?=\S+ \S)", line)[0].replace("/", "").split() for line in picture]
    assert [set(line) for line in shown] == [set(layer.split(" | ")) for layer in layers]


def test_no_import_hides_in_a_function():
    """It would hide a circle; where it only saves time, LATE says what."""
    assert late_imports() == set(LATE)


def test_nobody_dodges_the_formatter():
    dodge = "# fmt: " + "skip"
    assert [str(p) for p in FILES if dodge in p.read_text(encoding="utf-8")] == []
