"""What a report is to do: everything is checked, and nothing runs.

Plan         what `plan_report` found
plan_report  the plan for a preset, some notebooks and parameters
plan_text    a plan as text
run_folder   where a report writes: runs/<preset>, and with parameters runs/<preset>+NAME=VALUE
why_stale    why a notebook must run, in words
run_changes  what has changed since the run of a notebook in a folder, in words
"""

import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from .files import read_json
from .origins import find_origin
from .preflight import check_parameters, check_preset, find_notebooks, known_layers
from .presets import preset_values, project_root
from .resources import check_access, check_memory
from .stamps import changes, committed_changes, make_stamp, outputs_digest

__all__ = ["Plan", "plan_report", "plan_text", "run_changes", "run_folder", "why_stale"]


class Plan(NamedTuple):
    """What a report is to do. `stale` says per notebook (stem) why it runs; "" means it is kept. Of
    a refresh, `notebooks` are those that no longer fit what is committed.
    `needs` and `problems` are lines about memory, disk and network."""

    preset: str
    root: Path
    out: Path
    notebooks: list[Path]
    passed: dict[str, dict[str, Any]]
    stale: dict[str, str]
    needs: list[str]
    problems: list[str]
    refresh: bool = False


def run_folder(root: Path, preset: str, given: list[tuple[str, str]]) -> Path:
    """The folder of a run; parameters are in its name, or a digest of them where they are long."""
    words = [f"{name}={value}" for name, value in sorted(given)]
    name = "+".join([preset, *words])
    if not re.fullmatch(r"[\w.,=+-]{1,80}", name):
        name = f"{preset}+{sha256(repr(words).encode()).hexdigest()[:8]}"
    return root / "runs" / name


def plan_report(
    preset: str,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    given: list[tuple[str, str]] = (),
    *,
    refresh: bool = False,
    fresh: bool = False,
    root: Path | None = None,
) -> Plan:
    """Check everything that can be checked without running, and find what is done already.

    Raises ValueError for an unknown preset, notebook, parameter or value, and TypeError for a value
    of a wrong type. What this machine or the network cannot provide is in the plan's problems.
    """
    root = (root or project_root()).resolve()
    params = root / "notebooks" / "params"
    notebooks = find_notebooks(root / "notebooks", only, skip)
    preset_values("", preset, params)  # an unknown preset is refused with the nearest names
    origin = find_origin(preset, params)
    layers = known_layers(origin)
    check_preset(preset, notebooks, layers, params)
    passed = check_parameters(notebooks, given, preset, layers, params)
    if refresh and not fresh:
        notebooks = [path for path in notebooks if committed_changes(path, root, preset)]
    out = run_folder(root, preset, given)
    plan = Plan(preset, root, out, notebooks, passed, {}, [], [], refresh)
    for path in notebooks:
        plan.stale[path.stem] = "asked to run afresh" if fresh else why_stale(plan, path)
    values = {
        path.stem: preset_values(path.stem, preset, params) | passed[path.stem]
        for path in notebooks
        if plan.stale[path.stem]
    }
    if values:  # a report that only writes its pages needs nothing
        for found in (check_memory(origin, values), check_access(origin, values)):
            plan.needs.extend(found.lines)
            plan.problems.extend(found.problems)
    return plan


def plan_text(plan: Plan) -> str:
    """What a plan will run and why, with which values, and what it needs."""
    lines = [f"preset {plan.preset}, to {os.path.relpath(plan.out)}", *plan.needs]
    params = plan.root / "notebooks" / "params"
    for path in plan.notebooks:
        why = plan.stale[path.stem]
        lines.append(f"{path.stem}: " + (f"run ({why})" if why else "unchanged, not run again"))
        values = preset_values(path.stem, plan.preset, params) | plan.passed[path.stem]
        lines.append("    " + " · ".join(f"{name} {value}" for name, value in values.items()))
    return "\n".join(lines)


def why_stale(plan: Plan, path: Path) -> str:
    """Why a notebook must run, in words; "" if what it would give is there."""
    params = plan.root / "notebooks" / "params"
    there = (plan.out / path.stem / "stamp.json").is_file()
    found = run_changes(plan.out, path, plan.preset, plan.passed[path.stem], params)
    return ("changed: " * there + ", ".join(found)) if found else ""


def run_changes(
    out: Path, path: Path, preset: str, passed: dict[str, Any], params: Path
) -> list[str]:
    """What has changed since the run of a notebook in the folder `out`; [] if nothing has."""
    old, executed = read_json(out / path.stem / "stamp.json"), out / path.name
    new = make_stamp(path, preset, passed, params)
    found = changes(old, new)
    if not found:
        whole = executed.is_file() and outputs_digest(executed, out / path.stem) == old["outputs"]
        found = [] if whole else ["its outputs"]
    return found
