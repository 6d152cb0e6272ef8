"""pyproject, the lock files and environment.yml describe one environment."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import qs_helpers as qs

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def lock(name: str) -> dict[str, str]:
    return {canonicalize_name(n): v for n, v in (line.split("==") for line in lines(name))}


EXTRA = ("", "-test", "-workshop", "-explore", "-runtimes")
LOCKS = [f"requirements{extra}.lock" for extra in EXTRA]
LOCK, TEST_LOCK, WORKSHOP_LOCK, EXPLORE_LOCK, RUNTIMES_LOCK = map(lock, LOCKS)


@pytest.mark.parametrize("name", LOCKS)
def test_every_lock_line_is_exact(name):
    assert [line for line in lines(name) if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert len(lines(name)) == len(lock(name)), "a package is pinned twice"


def test_locks_do_not_overlap():
    assert set(LOCK) & set(TEST_LOCK) == set()
    apart = [set(WORKSHOP_LOCK), set(EXPLORE_LOCK), set(RUNTIMES_LOCK)]
    assert (set(LOCK) | set(TEST_LOCK)) & set.union(*apart) == set()
    assert sum(map(len, apart)) == len(set.union(*apart))


def test_packages_of_single_platforms_are_left_to_pip():
    assert [n for n in LOCK | TEST_LOCK if n.startswith("nvidia") or n == "triton"] == []


@pytest.mark.parametrize(
    "text", PROJECT["dependencies"] + EXTRAS["test"] + EXTRAS["lint"] + EXTRAS["real"]
)
def test_lock_satisfies_requirement(text):
    need = Requirement(text)
    assert need.specifier.contains(LOCK[canonicalize_name(need.name)]), text


@pytest.mark.parametrize(
    "text", EXTRAS["interop"] + EXTRAS["browser"] + EXTRAS["data"] + EXTRAS["scale"]
)
def test_test_lock_satisfies_extra(text):
    need = Requirement(text)
    assert need.specifier.contains((LOCK | TEST_LOCK)[canonicalize_name(need.name)]), text


@pytest.mark.parametrize("text", EXTRAS["workshop"])
def test_workshop_lock_satisfies_extra(text):
    need = Requirement(text)
    assert need.specifier.contains((LOCK | WORKSHOP_LOCK)[canonicalize_name(need.name)]), text


@pytest.mark.parametrize("text", EXTRAS["explore"])
def test_explore_lock_satisfies_extra(text):
    need = Requirement(text)
    assert need.specifier.contains(EXPLORE_LOCK[canonicalize_name(need.name)]), text


@pytest.mark.parametrize("text", EXTRAS["runtimes"])
def test_runtimes_lock_satisfies_extra(text):
    need = Requirement(text)
    assert need.specifier.contains((LOCK | RUNTIMES_LOCK)[canonicalize_name(need.name)]), text


def test_torch_is_the_one_we_test_with():
    assert LOCK["torch"] == "2.13.0"


def test_environment_yml_leads_to_the_lock():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = listed["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert len(conda) == 2 and conda[1] == "pip"
    python = Version(conda[0].removeprefix("python="))
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(python)


def test_every_line_of_environment_yml_has_a_reason():
    assert [line for line in lines("environment.yml") if not re.search(r" # \w", line)] == []


def test_every_dependency_of_pyproject_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = PROJECT["dependencies"] + [need for extra in EXTRAS.values() for need in extra]
    for need in names:
        assert re.search(rf'^    "{re.escape(need)}", +# \w', text, re.MULTILINE), need


def test_makefile_and_ci_use_the_same_files():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-r requirements.lock" in makefile and "-r requirements-test.lock" in makefile
    assert "-r requirements-workshop.lock" in makefile
    assert "-r requirements-explore.lock" in makefile
    assert "-r requirements-runtimes.lock" in makefile
    ci = ROOT / ".ci" / "run"
    assert "make test" in ci.read_text(encoding="utf-8") and ci.stat().st_mode & 0o100


def test_what_the_package_needs_is_shipped():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    # Every folder below qs_helpers counts as a package, and every file in a package is shipped.
    assert settings["setuptools"]["packages"]["find"]["include"] == ["qs_helpers*"]
    assert settings["setuptools"]["package-data"] == {"*": ["*"]}


def test_the_version_is_said_once_and_the_edition_is_cited():
    assert PROJECT["version"] == qs.__version__
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert set(cited) >= {"cff-version", "message", "title", "authors"}
    assert cited["license"] == PROJECT["license"]
    editions = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert editions[0] == ("Unreleased", "")
    assert editions[1] == (cited["version"], cited["date-released"])
