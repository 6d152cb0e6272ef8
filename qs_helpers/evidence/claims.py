"""One rule for SHOWN: what a run announces that it will judge, and what it then finds.

`announce` prints a table of claims, with what each needs to be SHOWN, before the test split is
opened. `claim` judges a measured estimate by it; nobody passes a verdict in:

- a threshold: the pessimistic end of the interval lies beyond it;
- a null control (random directions, shuffled labels, no edit): the interval of the difference to
  the mean null draw lies beyond a margin, and the effect ranks first among R null draws, R being at
  least 20 m - 1 for a family of m claims. A claim may have both;
- either: an interval with width, and at least 8 groups. SHOWN if all of it is met, NOT SHOWN if
  not. What lacks one of these is MEASURED: a number without a verdict.

Baselines (a probe, diff-of-means) are no null controls: the difference to each is put into words
and decides nothing. Invariants (`holds`) are not announced; one that is BROKEN stops the run.
"""

import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from IPython import get_ipython
from IPython.display import display

from ..presets import nearest
from .files import plain, short, write_whole
from .record import Record, add_entry, current_run
from .samples import as_csv, computed, disagreement
from .sentences import Sentence, Table
from .stats import Against, Estimate

FEWEST_GROUPS = 8


class ClaimFailed(AssertionError):
    """An invariant does not hold."""


class Announced(NamedTuple):
    """What a claim says that it will need, before anything is measured."""

    asks: str
    """the question, in words"""
    above: float | None = None
    """threshold: SHOWN if the interval lies above it"""
    below: float | None = None
    """threshold: SHOWN if the interval lies below it; with `above`, between them"""
    null: str | None = None
    """name of the null draws, as "random directions of equal size" """
    margin: float = 0.0
    """how far beyond the mean null draw the interval of the difference must lie"""
    fewer: bool = False
    """the effect is to be smaller than under the null, not larger"""
    baselines: Mapping[str, float] = {}
    """name to margin: "not worse" is within it"""
    family: Sequence[str] = ()
    """names of the claims made together: languages, models. The id of each is id/name"""

    @property
    def m(self) -> int:
        return max(1, len(self.family))

    @property
    def draws(self) -> int:
        """How many null draws the rank needs."""
        return 20 * self.m - 1

    def needs(self) -> str:
        """What makes it SHOWN, in words."""
        parts = []
        if self.above is not None:
            parts.append(f"the interval lies above {self.above:g}")
        if self.below is not None:
            parts.append(f"the interval lies below {self.below:g}")
        if self.null:
            side, first = ("below", "lowest") if self.fewer else ("above", "highest")
            by = f" by more than {self.margin:g}" if self.margin else ""
            parts.append(
                f"the difference to the mean of {self.null} lies {side} 0{by}, and it is the "
                f"{first} of at least {self.draws} draws"
            )
        return " and ".join(parts) or "no verdict: a measurement"


def announce(claims: Mapping[str, Mapping[str, Any]]) -> None:
    """Announce the claims of a run, before its test split is opened, and show them as a table.

    claims: id to what it asks and needs, the fields of `Announced`:

        qs.announce({"one-feature": {"asks": "Does one feature detect it?", "above": 0.9}})

    An id is of a-z, 0-9 and -, the same in every preset: no layer, feature or model is part of it.
    ValueError for another id, an unknown field, a claim without a question, thresholds that
    exclude each other, a margin without a null; and if a claim was judged by another announcement
    before.
    """
    run, fresh = current_run(), {}
    for name, fields in claims.items():
        _check_id(name)
        for key in set(fields) - set(Announced._fields):
            raise ValueError(f"claim {name!r}: {key!r}; {nearest(key, Announced._fields)}")
        if not str(fields.get("asks", "")).strip():
            raise ValueError(f"claim {name!r} asks nothing: say in 'asks' what it is about")
        fresh[name] = it = Announced(**fields)
        if it.above is not None and it.below is not None and it.above >= it.below:
            raise ValueError(
                f"claim {name!r}: nothing is above {it.above:g} and below {it.below:g}"
            )
        if (it.margin or it.fewer) and not it.null:
            raise ValueError(f"claim {name!r} has a margin to no null; name it in 'null'")
        if not it.margin >= 0 or not all(x >= 0 for x in dict(it.baselines).values()):
            raise ValueError(f"claim {name!r}: a margin is a number from 0 on")
        if it.null and (
            (it.fewer and it.above is not None) or (it.below is not None and not it.fewer)
        ):
            raise ValueError(f"claim {name!r}: threshold and null point in opposite directions")
        if isinstance(it.family, str) or len(set(it.family)) < len(it.family):
            raise ValueError(f"claim {name!r}: family is a list of different names")
    judged = {entry["id"].partition("/")[0] for entry in run.data["claims"]}
    for name in judged & fresh.keys():
        if run.announced.get(name) != fresh[name]:
            raise ValueError(
                f"claim {name!r} was judged before it was announced like this; begin a new run "
                "with qs.start_run"
            )
    run.announced.update(fresh)
    display(Table(fresh))


def claim(
    id: str,
    sentence: str,
    estimate: Estimate | float,
    *,
    null: Against | None = None,
    baselines: Mapping[str, Estimate] | None = None,
    matched: Mapping[Any, float] | None = None,
    samples: Mapping[str, Any] | None = None,
) -> str:
    """Judge a claim that was announced, show its sentence and record it; returns the badge.

    id: as announced, "id/name" for one of a family; sentence: what was found, with its numbers.
    estimate: the effect with its interval, of level 1 - .05 / m for a family of m; or a number.
    null: `against(...)`; baselines: name to the estimate of effect minus baseline; matched: name
    of each matched feature to its value. Those that do as well are named; they are no veto.
    samples: of a claim on which the answer rests, what the estimate was computed from, so that
    `qs-report verify` can compute it again: {"by": "share", "hits": …, "groups": …}.

    Running a cell again replaces its claim. ValueError for an id that was not announced or is made
    twice, an interval of another level, a control that was not announced, samples of another
    estimate.
    """
    run, (base, slash, member) = current_run(), id.partition("/")
    it = run.announced.get(base)
    if it is None:
        known = nearest(base, run.announced)
        raise ValueError(f"claim {id!r} was not announced before the test split; {known}")
    if bool(slash) != bool(it.family) or (slash and member not in it.family):
        fits = ", ".join(f"{base}/{name}" for name in it.family) or base
        raise ValueError(f"claim {id!r} does not fit what was announced: {fits}")
    if not isinstance(estimate, Estimate):
        estimate = Estimate(float(estimate), np.nan, np.nan, 0, 0, it.m)
    _check(id, it, estimate, null, baselines or {})
    lacks = _lacks(it, estimate, null)
    misses = [] if lacks else _misses(it, estimate, null)
    badge = "MEASURED" if lacks else "NOT SHOWN" if misses else "SHOWN"
    entry = {"id": id, "sentence": sentence, "asks": it.asks, "kind": "empirical", "badge": badge}
    has = estimate.low == estimate.low
    entry |= {"value": estimate.value, "interval": estimate.interval if has else None}
    entry |= {"n": estimate.n or None, "groups": estimate.groups or None, "family": it.m}
    entry |= {
        "effective": estimate.effective,
        "needs": it.needs(),
        "why": "; ".join(lacks + misses),
    }
    entry |= {"above": it.above, "below": it.below, "null": _null(it, null)}
    found = baselines or {}
    entry["baselines"] = [_baseline(it, name, gap) for name, gap in found.items()]
    entry["matched"] = _matched(it, estimate.value, matched) if matched else None
    content = _samples(entry, samples) if samples and np.isfinite(estimate.value) else b""
    _keep(run, entry, content)
    return badge


def holds(id: str, sentence: str, passed: Any, value: Any = None, n: int | None = None) -> None:
    """An invariant: identity, removal of hooks, planted truth. ClaimFailed if it does not hold.

    value: what was measured, if more than yes or no; n: of how many samples.
    """
    _check_id(id.partition("/")[0])
    if passed != passed:
        raise ValueError(f"claim {id!r}: whether it holds is no yes or no, but nan")
    passed = bool(passed)
    entry = {"id": id, "sentence": sentence, "kind": "invariant"}
    entry |= {"badge": "HOLDS" if passed else "BROKEN", "value": value, "n": n}
    _keep(current_run(), entry)
    if not passed:
        shown = "" if value is None else f" (value {short(plain(value))})"
        raise ClaimFailed(f"invariant broken: {sentence}{shown}")


def _check_id(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"claim id {name!r}: use a-z, 0-9 and -, as 'one-feature'")


def _check(id: str, it: Announced, estimate: Estimate, null, baselines) -> None:
    """ValueError if what was measured is not what was announced."""
    if null is not None and not it.null:
        raise ValueError(f"claim {id!r} was announced without a null control; name it in 'null'")
    if null is not None and not np.isclose(null.value, estimate.value, equal_nan=True):
        raise ValueError(
            f"claim {id!r}: the effect is {short(estimate.value)}, but {short(null.value)} where "
            "it is set against the null; both must be of the same samples"
        )
    if null is not None and estimate.n and null.difference.n != estimate.n:
        raise ValueError(
            f"claim {id!r}: {estimate.n} samples, but {null.difference.n} where it is set against "
            "the null; both must be of the same samples"
        )
    for name in baselines:
        if name not in it.baselines:
            raise ValueError(f"claim {id!r}: baseline {name!r}; {nearest(name, it.baselines)}")
    for part in (estimate, *([null.difference] if null else []), *baselines.values()):
        if part.family != it.m:
            raise ValueError(
                f"claim {id!r} is one of {it.m}: its intervals need family={it.m}, not "
                f"{part.family}"
            )


def _lacks(it: Announced, estimate: Estimate, null: Against | None) -> list[str]:
    """What keeps a claim from a verdict."""
    parts = [estimate] + ([null.difference] if null else [])
    if it.above is None and it.below is None and not it.null:
        return ["no threshold and no control"]
    if not np.isfinite(estimate.value):
        return ["the value is no number"]
    if any(np.isnan(part.low) and part.groups != 1 for part in parts):
        return ["no interval"]
    if not all(part.n and part.groups for part in parts):
        return ["groups are not known"]
    if (groups := min(part.groups for part in parts)) < FEWEST_GROUPS:
        said = "1 group" if groups == 1 else f"{groups} groups"
        return [f"{said}, and a verdict needs {FEWEST_GROUPS}"]
    # What differs in the last digit only has no width.
    if not all(part.high - part.low > 1e-12 * max(1, abs(part.value)) for part in parts):
        return ["an interval without width"]
    if it.null and null is None:
        return [f"{it.null} were not measured"]
    if null and not np.isfinite(null.draws).all():
        return ["a null draw is no number"]
    if null and len(null.draws) < it.draws:
        return [f"{len(null.draws)} null draws, and the rank needs {it.draws}"]
    return []


def _misses(it: Announced, estimate: Estimate, null: Against | None) -> list[str]:
    """What a claim needs and does not meet."""
    out = []
    if it.above is not None and not estimate.low > it.above:
        out.append(f"the interval begins at {short(estimate.low)}, not above {it.above:g}")
    if it.below is not None and not estimate.high < it.below:
        out.append(f"the interval ends at {short(estimate.high)}, not below {it.below:g}")
    if null:
        sign = -1 if it.fewer else 1
        end = min(sign * null.difference.low, sign * null.difference.high)
        if not end > it.margin:
            span = " to ".join(map(short, null.difference.interval))
            out.append(f"its difference to the mean of {it.null} may be {span}")
        if not sign * null.value > (sign * np.asarray(null.draws)).max():
            out.append(f"it is not the first among {it.null}")
    return out


def _less_is_better(it: Announced) -> bool:
    return it.fewer or (it.below is not None and it.above is None)


def _null(it: Announced, null: Against | None) -> dict[str, Any] | None:
    """The null control as results.json keeps it."""
    if null is None:
        return None
    draws = np.asarray(null.draws, float)
    best = draws.min() if it.fewer else draws.max()
    as_good = int((draws <= null.value).sum() if it.fewer else (draws >= null.value).sum())
    out = {"name": it.null, "draws": len(draws), "mean": draws.mean(), "best": best}
    out |= {"rank": 1 + as_good, "margin": it.margin, "difference": null.difference.value}
    return out | {"difference_interval": null.difference.interval}


def _baseline(it: Announced, name: str, gap: Estimate) -> dict[str, Any]:
    """How an effect stands to a baseline, as results.json keeps it. It decides nothing."""
    margin = it.baselines[name]
    low, high = gap.interval
    if _less_is_better(it):
        low, high = -high, -low
    if gap.groups < FEWEST_GROUPS or not gap.low < gap.high:
        answer = "undecided"
    elif low > 0:
        answer = "better"
    elif low > -margin:
        answer = f"not worse by more than {margin:g}"
    else:
        answer = "worse" if high < 0 else "undecided"
    out = {"name": name, "answer": answer, "margin": margin, "difference": gap.value}
    return out | {"difference_interval": gap.interval}


def _matched(it: Announced, value: float, matched: Mapping[Any, float]) -> dict[str, Any]:
    """Percentile of a value among matched features, and which do as well."""
    sign = -1 if _less_is_better(it) else 1
    as_good = [str(name) for name, x in matched.items() if not sign * x < sign * value]
    percentile = 100 * (1 - len(as_good) / len(matched))
    return {"count": len(matched), "percentile": percentile, "as_good": as_good}


def _samples(entry: dict[str, Any], samples: Mapping[str, Any]) -> bytes:
    """Samples as CSV, named in the entry; ValueError if they are those of another estimate."""
    try:
        content = as_csv(samples)
        found = computed(by := samples.get("by", ""), content, entry["family"])
    except ValueError as bad:
        raise ValueError(f"claim {entry['id']!r}: samples: {bad}") from None
    if differs := disagreement(entry["value"], entry["interval"], found):
        raise ValueError(f"claim {entry['id']!r}: {differs}")
    file = f"claims/{entry['id'].replace('/', '__')}.csv"
    entry["samples"] = {"by": by, "file": file, "sha256": sha256(content).hexdigest()}
    return content


def _keep(run: Record, entry: dict[str, Any], samples: bytes = b"") -> None:
    """Record and show an entry, and write its samples; ValueError if its id was taken."""
    name, place = entry["id"], _cell()
    if name in run.places and (os.environ.get("QS_OUT") or run.places[name] == place):
        raise ValueError(
            f"claim {name!r} is made twice; give the second another id, as {name + '-2'!r}"
        )
    run.places[name] = place
    if samples:
        write_whole(run.folder / entry["samples"]["file"], samples)
    add_entry(run, "claims", plain(entry), "id")
    display(Sentence(plain(entry), run.tiny))


def _cell() -> int | None:
    """The number of the cell that runs; None outside of a notebook."""
    shell = get_ipython()
    return shell.execution_count if shell else None
