"""What a report is asked to do, checked before anything is loaded, and the plan that comes of it.

Torch and the notebook libraries are not imported here, so a mistake is named within a second.
"""

import math
import os
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ..loading import hub
from ..loading.catalog import COMMUNITY, DTYPE_BYTES, GROUPS, TINY, model_place, spans
from ..loading.packaged import describe, is_made
from ..presets import (
    OUTPUT,
    PATHS,
    REPO,
    SOURCES,
    check_items,
    check_model,
    check_type,
    is_tiny,
    located,
    nearest,
    project_root,
    read_yaml,
    runs_folder,
)
from .needs import check_access, check_memory, check_training
from .run import SUITE, TRAIN, Preset, Run, declared, find_notebooks, near

# The least value of a number, by the name of its parameter or how the name begins or ends.
LEAST = {"SEED": 0, "STEPS": 0, "TEMPERATURE": 0, "MAX_FVU": 0, "REDRAWS": 1, "N_": 1, "_TOKENS": 1}
LEAST |= {"TOKENS": 1, "D_SAE": 1, "K": 1, "RANDOM_MODELS": 0}

POSITIONS = ("all", "prompt", "generated")  # as in hooks.py, which would import torch

# What some notebooks need besides to reach their end: texts enough to compare, of which some are as
# the notebook needs them, and tokens to tell a refusal by. Of lists, the number of items.
FEWEST = {
    "02_visualize": {"N_TEXTS": 2},
    "03_steer": {"N_TEXTS": 2, "MAX_NEW_TOKENS": 2},
    "05_code_switching": {"LAYERS": 1},
    "06_abliteration_comparison": {"MODELS": 1, "SUITES": 1, "REFUSAL_TOKENS": 5}
    | {"N_TRAIN": 8, "N_VALIDATION": 4, "N_TEST": 12},
    "07_patching": {"N_PAIRS": 4, "N_TEXTS": 2},
    "08_benchmark_overlap": {"BENCHMARKS": 2, "TEMPLATES": 1, "N_ITEMS": 1},
    "10_train_suite": {"N_TEXTS": 8},
}
# Languages of the sources that come with the project.
LANGUAGES_OF = {"tiny": ("en", "fr", "ru", "ja", "zh"), "pydoc": ("en",)}
LANGUAGES_OF["natural"] = LANGUAGES_OF["tiny"]
# The sources that must have every one of a notebook's LANGUAGES.
SPEAKS = {"03_steer": ["TEXTS"], "04_toxicity": ["DATA"], "05_code_switching": ["TEXTS", "PROMPTS"]}
SPEAKS["06_abliteration_comparison"] = ["PROMPTS"]


class Plan(NamedTuple):
    """What a report is to do."""

    preset: Preset
    root: Path  # of the project
    out: Path  # the folder that is written
    runs: list[Run]  # of a refresh, those that no longer fit what is committed
    stale: dict[str, str]  # why a notebook (stem) runs; "" means that it is kept
    needs: list[str]  # lines about memory, disk and network
    problems: list[str]  # those of them that stand in the way
    refresh: bool = False
    first: dict[str, str] = {}  # "model" and "sae", if they are to be made, and how in words


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
    chosen = Preset(preset, root / "notebooks" / "params")
    notebooks = find_notebooks(root / "notebooks", only, skip)
    if not only and (given or TRAIN not in chosen.sections):
        notebooks = [path for path in notebooks if path.stem != TRAIN]
    check_preset(chosen, notebooks)
    passed = check_parameters(notebooks, given, chosen)
    if passed.get(TRAIN) and chosen.values(TRAIN)[OUTPUT] and OUTPUT not in passed[TRAIN]:
        raise ValueError(f"{TRAIN} with other parameters writes another suite: give OUT as well")
    out = run_folder(runs_folder(root), preset, given)
    runs = [Run(path, chosen, out, passed[path.stem]) for path in notebooks]
    if refresh and not fresh:
        runs = [run for run in runs if run.committed_changes()]
    for run in runs:
        try:
            check_together(run.stem, run.values, chosen)
        except ValueError as bad:
            raise ValueError(f"{run.stem} of {preset}: {bad}") from None
    stale = {run.stem: "asked to run afresh" if fresh else run.why_stale() for run in runs}
    first = _to_make(chosen, runs, stale, root)
    places = _written(out, runs, first, root if refresh else None)
    problems = [
        f"{why}, and {what}" for place, what in places.items() if (why := unwritable(place))
    ]
    plan = Plan(chosen, root, out, runs, stale, [*first.values()], problems, refresh, first)
    values = {run.stem: run.values for run in runs if stale[run.stem]}
    if values:  # a report that only writes its pages needs nothing
        reads = {stem: v for stem, v in values.items() if stem != TRAIN}  # model and SAEs
        making = first or not reads
        there = [] if making else [check_memory(chosen.origin, reads)]
        trains = [run for run in runs if run.stem == TRAIN and stale[run.stem]]
        maker = suite_maker(chosen, root) if "sae" in first else None
        for run in trains + [maker] * (maker is not None and maker not in trains):
            folder = run.written or run.folder / SUITE
            there.append(check_training(run.values, chosen.scope, folder))
        for found in [*there, check_access(None if making else chosen.origin, values)]:
            plan.needs.extend(found.lines)
            plan.problems.extend(found.problems)
    return plan


def _to_make(preset: Preset, runs: list[Run], stale: dict[str, str], root: Path) -> dict[str, str]:
    """What a preset's section `prepare:` has made before these notebooks run, and is not there or
    no longer fits: "model" or "sae", with a line that says how."""
    said, found, maker = preset.prepare, {}, suite_maker(preset, root)
    if "model" in said and not is_made(said["model"], Path(preset.scope["model"])):
        found["model"] = f"first, once: {describe(said['model'])}"
    if maker is not None:
        why = stale[maker.stem] if maker in runs else maker.why_stale()
        if why and any(run.stem != maker.stem for run in runs):
            found["sae"] = f"first: {maker.stem} trains the SAEs ({why})"
    return found


def suite_maker(preset: Preset, root: Path) -> Run | None:
    """The run that trains the preset's suite, with the preset's own parameters; None without."""
    if "sae" not in preset.prepare:
        return None
    notebook = root / "notebooks" / f"{preset.prepare['sae']}.ipynb"
    return Run(notebook, preset, runs_folder(root) / preset.name)


def unwritable(folder: Path) -> str:
    """Why nothing can be written into a folder, which may be yet to be made; "" if it can."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ""
    return f"{there} cannot be written" if there.is_dir() else f"{there} is no folder"


def _written(
    out: Path, runs: list[Run], first: dict[str, str], refreshed: Path | None
) -> dict[Path, str]:
    """The folders that a report writes, each with words on what for, and the way out."""
    places = {out: f"results go to {out}: set QS_RUNS to a folder that can be"}
    for run in runs:
        if run.written:
            places[run.written] = "OUT is to be written there: give another folder"
        if "model" in first:
            made = Path(run.preset.scope["model"])
            places[made] = f"the model of {run.preset.name} is made there: give another in its file"
    for name in ("notebooks", "figures") if refreshed else ():
        places[refreshed / name] = f"--refresh writes {name}/: leave it out, or change who may"
    return places


def run_folder(runs: Path, preset: str, given: list[tuple[str, str]]) -> Path:
    """The folder of a report; parameters are in its name, or a digest of them if they are long."""
    words = [f"{name}={value}" for name, value in sorted(given)]
    name = "+".join([preset, *words]).replace("=[", "=").replace("]", "").replace(", ", ",")
    if not re.fullmatch(r"[\w.,=+-]{1,80}", name):
        name = f"{preset}+{sha256(repr(words).encode()).hexdigest()[:8]}"
    return runs / name


def plan_text(plan: Plan) -> str:
    """What a plan will run and why, with which values, and what it needs."""
    lines = [f"preset {plan.preset.name}, to {near(plan.out)}", *plan.needs]
    for run in plan.runs:
        why = plan.stale[run.stem]
        lines.append(f"{run.stem}: " + (f"run ({why})" if why else "unchanged, not run again"))
        lines.append("    " + " · ".join(f"{name} {value}" for name, value in run.values.items()))
    return "\n".join(lines)


def check_parameters(
    notebooks: list[Path], given: list[tuple[str, str]], preset: Preset
) -> dict[str, dict[str, Any]]:
    """The parameters of each notebook (by stem) from names and values given as text.

    A name goes to every notebook that declares it. ValueError for a name that none declares, with
    the nearest one, or a value out of range; TypeError for a value of another type than declared.
    """
    names = {path.stem: declared(path) for path in notebooks}
    known = {name for kinds in names.values() for name in kinds}
    passed: dict[str, dict[str, Any]] = {path.stem: {} for path in notebooks}
    for name, text in given:
        if name not in known:
            raise ValueError(f"parameter {name!r} is in no notebook; {nearest(name, known)}")
        for stem, kinds in names.items():
            if name in kinds:
                # A text stays what it is: a revision such as 12e5 is no number.
                value = text if kinds[name] == "" else _yaml(name, text)
                value = check_type(name, value, kinds[name])
                value = check_type(name, value, preset.values(stem).get(name))
                # Paths are relative to where the command is typed.
                value = located(value, Path.cwd()) if name in PATHS else value
                if name == "LAYERS" and stem == TRAIN:  # it may train others
                    check_items(name, value)
                else:
                    check_value(name, value, preset)
                passed[stem][name] = value
    return passed


def _yaml(name: str, text: str) -> Any:
    try:
        return read_yaml(text)
    except ValueError as error:
        raise ValueError(f"{name} = {text!r}: {error}; lists are written '[1, 2]'") from None


def check_preset(preset: Preset, notebooks: list[Path]) -> None:
    """ValueError or TypeError unless a preset's file gives each notebook exactly what it declares,
    and its section `scope:` what load_scope accepts."""
    _check_names(preset, notebooks[0].parent)
    _check_scope(preset)
    maker = preset.prepare.get("sae")
    if maker is not None and not (notebooks[0].parent / f"{maker}.ipynb").is_file():
        stems = [path.stem for path in notebooks[0].parent.glob("[0-9][0-9]_*.ipynb")]
        raise ValueError(f"{preset.name}.yaml, prepare: sae {maker!r}; {nearest(maker, stems)}")
    for path in notebooks:
        values = preset.values(path.stem)
        for name, kind in declared(path).items():
            if name not in values:
                raise ValueError(f"{preset.name}.yaml lacks {name} of {path.stem}; see tiny.yaml")
            try:
                check_value(name, check_type(name, values[name], kind), preset)
            except (ValueError, TypeError) as bad:
                raise type(bad)(f"{preset.name}.yaml, {path.stem}: {bad}") from None


def _check_names(preset: Preset, folder: Path) -> None:
    """Refuse sections that are no notebook, and names that no notebook of theirs declares."""
    every = {path.stem: declared(path) for path in folder.glob("[0-9][0-9]_*.ipynb")}
    every["common"] = {name: kind for kinds in every.values() for name, kind in kinds.items()}
    for section, values in preset.sections.items():
        if section in ("scope", "prepare"):
            continue
        if section not in every:
            known = nearest(section, [*every, "scope", "prepare"])
            raise ValueError(f"{preset.name}.yaml: section {section!r}; {known}")
        for name in sorted(values.keys() - every[section].keys()):
            known = nearest(name, every[section])
            raise ValueError(f"{preset.name}.yaml, {section}: {name}; {known}")


def _check_scope(preset: Preset) -> None:
    """Refuse values of the section `scope:` that load_scope would refuse."""
    values, where = preset.scope, f"{preset.name}.yaml, scope"
    for name in ("k", "batch_tokens"):
        if values.get(name, 1) < 1:
            raise ValueError(f"{where}: {name} = {values[name]}: at least 1")
    dtype, device = values.get("dtype", "float32"), values.get("device", "cpu")
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"{where}: dtype {dtype!r}; {nearest(dtype, DTYPE_BYTES)}")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"{where}: device {device!r}; known: cpu, cuda, cuda:0, mps")


def check_value(name: str, value: Any, preset: Preset) -> None:
    """ValueError or TypeError for a value that no run can have: layers that the suite lacks,
    numbers out of range, models and suites that do not exist, prompts of another form, lists with
    items twice or of another type."""
    check_items(name, value)
    if name == "LAYERS" and (layers := preset.layers) is not None:
        missing = [layer for layer in value if layer not in layers]
        if missing:
            raise ValueError(f"LAYERS has {missing}, but the SAEs are of layers {spans(layers)}")
    if name == "LAYER" and value >= 0 and (layers := preset.layers) is not None:
        if value not in layers:
            raise ValueError(f"LAYER = {value}, but the SAEs are of layers {spans(layers)}")
    if name == "POSITIONS" and value not in POSITIONS:
        raise ValueError(f"POSITIONS = {value!r}; {nearest(value, POSITIONS)}")
    if name == "PAIRS" and len(value) > 2:
        raise ValueError("PAIRS: give one file with columns positive and negative, or two files")
    if name == "LANGUAGES" and not value:
        raise ValueError("LANGUAGES is empty; give codes such as [en, zh]")
    if name == "MODEL":
        check_model(preset.name, value)
    if name in ("MODELS", "SUITES", "SUITE", "OTHER"):
        _check_scopes(name, [value] if isinstance(value, str) else value, preset)
    if name == "TEMPLATES" and (odd := [text for text in value if text.count("{}") != 1]):
        raise ValueError(f"TEMPLATES: {odd[0]!r} must hold {{}} once, the place of the item")
    if name == "N_ITEMS" and min(value, default=2) < 2:
        # The notebook wants 8 items of a benchmark; of the tiny world's there are five languages.
        raise ValueError(f"N_ITEMS = {value}: each must be at least 2")
    if name == "SCORES" and value and not Path(value).is_file():
        raise ValueError(f"SCORES: {value}: there is no such file")
    several = name in ("TEXTS", "BENCHMARKS")  # any number of them
    long = type(value) is list and not several and value[2:]
    if name in SOURCES and (not value or value[:1] == "[" or long):
        raise ValueError(
            f"{name} = {value!r}: give tiny, natural, a csv, jsonl or txt file, or a Hub dataset; "
            "two of them, [harmful, harmless], only to a notebook that takes a list (--only)"
        )
    for number in value if type(value) is list else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{name} = {value}: a finite number is needed")
    if type(value) not in (int, float):
        return
    for rule, least in LEAST.items():
        begins, ends = rule[-1] == "_" and name.startswith(rule), name.endswith(rule)
        if (name == rule or begins or rule[0] == "_" and ends) and value < least:
            raise ValueError(f"{name} = {value}: it must be at least {least}")


def check_together(stem: str, values: dict[str, Any], preset: Preset) -> None:
    """ValueError for values of a notebook that are right one by one, and do not go together: it
    would end before its last cell."""
    for name, least in FEWEST.get(stem, {}).items():
        value = values.get(name, least)
        if (len(value) if isinstance(value, list) else value) < least:
            what = "names none, and" if isinstance(value, list) else f"= {value}:"
            raise ValueError(f"{name} {what} at least {least} is needed here")
    for name in SPEAKS.get(stem, ()):
        source = values.get(name, [])
        known = [LANGUAGES_OF.get(text.partition(":")[0]) for text in _texts(source)]
        lacking = {*values.get("LANGUAGES", [])} - {x for some in known for x in some or ()}
        if lacking and all(known):  # what a file holds is found out when it is read
            raise ValueError(
                f"LANGUAGES has {', '.join(sorted(lacking))}, and {name} has no such texts"
            )
    if stem in ("03_steer", "05_code_switching") and "en" in values.get("LANGUAGES", []):
        raise ValueError("LANGUAGES has en, which the others are compared with: leave it out")
    if stem == "05_code_switching" and not {"ru", "ja", "zh"} & {*values.get("LANGUAGES", ["zh"])}:
        raise ValueError("LANGUAGES needs one of ru, ja, zh: its words are told from English ones")
    if stem == "03_steer":
        strengths = values.get("STRENGTHS", [0.0, 1.0])
        if strengths != sorted(strengths) or 0 not in strengths or max(strengths) <= 0:
            raise ValueError(
                f"STRENGTHS = {strengths}: they must rise, with 0 and one above it at least"
            )
        if values.get("FEATURE", -1) >= 0 and values.get("LAYER", -1) < 0:
            raise ValueError(f"FEATURE = {values['FEATURE']}: give its LAYER as well")
    if stem == "05_code_switching" and values.get("STEPS"):
        origin = preset.origin
        depth = origin.group.n_layers if origin.group else _depth(origin.model)
        if depth and min(values["LAYERS"]) >= depth - 1:
            raise ValueError("STEPS above 0 needs one of LAYERS below the last, for its loss")
    if stem == "06_abliteration_comparison" and "own" in values.get("SUITES", []):
        for model in values.get("MODELS", []):
            if model not in (*preset.others, *TINY):
                raise ValueError(f"SUITES has own, but {model} is no preset: name a suite instead")
    if stem == TRAIN:
        if values.get("K", 0) > values.get("D_SAE", math.inf):
            raise ValueError(f"K = {values['K']} is more than D_SAE = {values['D_SAE']}")
        layers, model = values.get("LAYERS") or [0], values.get("MODEL", "")
        depth = _depth(model_place(model)) if model else None
        if min(layers) < 0 or depth and max(layers) >= depth:
            there = f"{model} has 0 to {depth - 1}" if depth else "they are counted from 0"
            raise ValueError(f"LAYERS = {layers}, but {there}")


def _texts(source: str | list[str]) -> list[str]:
    return [source] if isinstance(source, str) else source


def _depth(model: str | Path) -> int | None:
    """Layers of a model that lies in a folder; None of others, which are not asked here."""
    try:
        return hub.model_group(hub.open_source(model)).n_layers if Path(model).is_dir() else None
    except (OSError, ValueError):  # its loading will say why
        return None


def _check_scopes(name: str, value: list, preset: Preset) -> None:
    own = {"SUITES": ["own"], "SUITE": ["own"], "OTHER": [""]}.get(name, [])
    known = [*preset.others, *GROUPS, *COMMUNITY, *own]
    for text in value:
        elsewhere = name == "MODELS" and (REPO.fullmatch(text) or Path(text).is_dir())
        if text not in known and not elsewhere:
            raise ValueError(f"{name}: {text!r}; {nearest(text, known)}")
        if is_tiny(text) and not is_tiny(preset.name):
            # Its results would not be labelled as those of the tiny scope.
            raise ValueError(f"{name}: {text!r} is an embedded scope; {preset.name} needs its own")
