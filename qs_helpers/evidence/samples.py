"""The samples of a headline claim as CSV, from which its estimate can be computed again.

`claim` takes them as {"by": "share", "hits": […], "groups": […]}: a statistic of STATISTICS, and
its arguments, one column each. Of `spearman` the value alone is computed again; its interval is
that of the notebook, which knows what to draw anew.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ..presets import nearest
from .stats import Estimate, _array, _numbers, _together, auroc, difference, f1, mean, ratio, share
from .tradeoff import gap_again


def spearman(first, second, family: int = 1) -> Estimate:
    """Spearman's rank correlation of two columns of numbers, without an interval."""
    first, second = _together("spearman", first=first, second=second)
    value = spearmanr(first, second).statistic
    return Estimate(float(value), np.nan, np.nan, len(first), family=family)


STATISTICS = {f.__name__: f for f in (share, f1, auroc, ratio, mean, difference, spearman)}
STATISTICS["cost_gap"] = gap_again


def as_csv(samples: Mapping[str, Any]) -> bytes:
    """The columns of samples under their names: numbers so that they are read as they were, groups
    as numbers in quotes. ValueError for words among numbers, and columns of two lengths."""
    cells = {}
    for name, column in samples.items():
        if name == "groups" and column is not None:  # None: each sample is its own
            cells[name] = _numbered([str(label) for label in _array(column, object)])
        elif name not in ("by", "groups"):
            cells[name] = _numbers("samples", name, column).tolist()
    if len({len(column) for column in cells.values()}) > 1:
        sizes = ", ".join(f"{len(column)} {name}" for name, column in cells.items())
        raise ValueError(f"{sizes}; give as many of each")
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(cells)
    writer.writerows(zip(*cells.values(), strict=True))
    return text.getvalue().encode(errors="backslashreplace")


def _numbered(labels: list[str]) -> list[str]:
    """Labels of groups as numbers in the same order, part by part where they have two: a label may
    be an insult, or a whole sentence of somebody's data."""
    pairs = any("|" in label for label in labels)
    if pairs:  # one without a second part stands for itself, as in `stats.factors`
        labels = [label if "|" in label else f"{label}|{label}" for label in labels]
    parts = [label.split("|", 1) if pairs else [label] for label in labels]
    ranks = [
        {name: f"{i:05d}" for i, name in enumerate(sorted(set(column)))}
        for column in zip(*parts, strict=True)
    ]
    return ["|".join(map(dict.get, ranks, label)) for label in parts]


def computed(by: str, content: bytes, family: int = 1) -> Estimate:
    """The estimate of the samples in a CSV. ValueError for a statistic that is not known, and where
    the columns are not its arguments."""
    if by not in STATISTICS:
        raise ValueError(f"by {by!r}; {nearest(by, STATISTICS)}")
    lines = io.StringIO(content.decode(), newline="")
    try:
        names, *rows = [*csv.reader(lines, quoting=csv.QUOTE_NONNUMERIC)] or [[]]
        if {len(row) for row in rows} != {len(names)}:
            raise ValueError(f"{len(rows)} lines below the names, not all with {len(names)} values")
        columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        return STATISTICS[by](**columns, family=family)
    except (csv.Error, TypeError) as bad:
        raise ValueError(str(bad)) from None


def disagreement(value: Any, interval: Sequence[Any] | None, found: Estimate) -> str:
    """How a recorded value, and its interval where both have one, differ from what was computed
    again, in words; "" where they are the same."""
    recorded, again = [value], [found.value]
    if interval is not None and not np.isnan(found.low):
        recorded, again = [value, *interval], [found.value, *found.interval]
    recorded = [float(x) for x in recorded]  # results.json has words for inf and nan
    if np.allclose(recorded, again, rtol=1e-9, atol=1e-9, equal_nan=True):
        return ""
    return f"{_told(*recorded)} recorded, {_told(*again)} computed from the samples"


def _told(value: float, *ends: float) -> str:
    return f"{value:.10g}" + (f" [{ends[0]:.10g}, {ends[1]:.10g}]" if ends else "")
