"""The command `qs-report`, or python -m qs_helpers.report: its arguments and exit codes."""

import argparse
import os
import sys
from pathlib import Path

from ..presets import resolve_preset

EXAMPLES = """\
examples:
  qs-report                                      every notebook on the tiny scope
  qs-report --preset qwen3-8b-l50 --dry-run      what it needs, and what would run
  qs-report --preset qwen3-8b-l50 --only 03 04   two notebooks
  qs-report --only 01 -p SEED 1 -p LAYERS '[2]'  other parameters, into a folder of their own
  qs-report compare runs/tiny runs/tiny+SEED=1   claims and figures side by side

What is done and unchanged is not run again, so a report that was interrupted goes on when the same
command is given again. Pages go to runs/<preset>/index.html, numbers to results.json beside it.

exit codes: 0 all done, 1 a notebook failed, 2 refused before anything ran, 130 interrupted
"""


COMPARE = """\
example:
  qs-report compare runs/tiny runs/tiny-sft

exit codes: 0 written, 2 a folder holds no run
"""


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit code that the help names."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["compare"]:
        return _compare(argv[1:])
    args = _parser().parse_args(argv)
    from .run import plan_report, plan_text

    given = [tuple(pair) for pair in args.parameter]
    try:
        if args.refresh and given:
            raise ValueError("--refresh takes no -p: committed notebooks show the preset's values")
        if args.jobs is not None and args.jobs < 1:
            raise ValueError(f"--jobs {args.jobs}: give 1 or more")
        plan = plan_report(
            resolve_preset(args.preset), args.only, args.skip, given,
            refresh=args.refresh, fresh=args.fresh,
        )  # fmt: skip
    except (ValueError, TypeError) as bad:
        print(f"qs-report: {bad}", file=sys.stderr)
        return 2
    if args.dry_run:
        print(plan_text(plan))
    for problem in plan.problems:
        print(f"qs-report: {problem}", file=sys.stderr)
    if args.dry_run or plan.problems:
        return 2 if plan.problems else 0
    if not args.quiet:
        print("\n".join(plan.needs), end="\n" * bool(plan.needs), file=sys.stderr)
    from ..report import run as reporting

    try:
        index, outcomes = reporting.report(plan, args.jobs, args.quiet, args.fresh)
    except KeyboardInterrupt:  # while nothing ran
        return 130
    failed = [o for o in outcomes if o.error and o.error != reporting.STOPPED]
    for outcome in failed:
        print(f"{outcome.notebook.stem} failed: {outcome.error}", file=sys.stderr)
    if not args.quiet:
        kept = sum(bool(o.kept) for o in outcomes)
        print(f"{kept} of {len(outcomes)} notebooks unchanged, not run again", file=sys.stderr)
        print(os.path.relpath(index))
    if any(o.error == reporting.STOPPED for o in outcomes):
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qs-report",
        description="Run the notebooks on a preset and write web pages.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="auto", help="default: $QS_PRESET, else tiny")
    parser.add_argument("--only", nargs="+", metavar="NN", help="numbers or names of notebooks")
    parser.add_argument("--skip", nargs="+", metavar="NN", help="notebooks to leave out")
    parser.add_argument(
        *("-p", "--parameter"),
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of a notebook; may be given several times",
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="keep what is done; the default")
    again.add_argument("--fresh", action="store_true", help="run everything again")
    parser.add_argument(
        *("-j", "--jobs"), type=int, metavar="N",
        help="notebooks at a time; default: the cores for a tiny scope, 1 for others",
    )  # fmt: skip
    parser.add_argument(
        "--refresh", action="store_true",
        help="also write what is stale in notebooks/ and figures/ anew",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def _compare(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="qs-report compare",
        description="Put the claims, numbers and figures of several runs side by side on one page.",
        epilog=COMPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders such as runs/tiny")
    parser.add_argument("-o", "--out", type=Path, help="the page; default: in runs/compare")
    args = parser.parse_args(argv)
    from .compare import compare_runs

    try:
        print(os.path.relpath(compare_runs(args.runs, args.out)))
    except ValueError as bad:
        print(f"qs-report: {bad}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
