"""What a claim says in words, as a cell, a page and a table of claims show it."""

import re
from collections.abc import Mapping
from typing import Any

from .files import short
from .stats import LEVEL


def in_a_sentence(entry: Mapping[str, Any]) -> str:
    """What a recorded claim says: its sentence, interval, samples, controls and baselines."""
    if entry["kind"] == "invariant":
        about = [] if entry["value"] is None else [short(entry["value"])]
        about += [f"n = {entry['n']:,}"] if entry["n"] else []
        return entry["sentence"] + (f" ({'; '.join(about)})" if about else "") + "."
    about = [short(entry["value"])]
    if entry["interval"]:
        low, high = map(short, entry["interval"])
        level = f"{100 * (1 - LEVEL):g} % interval {low} to {high}"
        m = entry["family"]
        about.append(level + (f", simultaneous for {m} claims" if m > 1 else ""))
    if entry["n"] == 1:
        about.append("one example: an anecdote")
    elif entry["n"]:
        groups = f" in {entry['groups']:,} groups" if entry["groups"] else ""
        groups = groups[:-1] if entry["groups"] == 1 else groups
        about.append(f"n = {entry['n']:,}{groups}")
    text = f"{entry['sentence']} ({'; '.join(about)})"
    if null := entry["null"]:
        low, high = map(short, null["difference_interval"])
        best = "first" if null["rank"] == 1 else f"number {null['rank']}"
        text += (
            f"; {null['name']}, {null['draws']} draws: mean {short(null['mean'])}, best "
            f"{short(null['best'])}; difference to their mean {short(null['difference'])} "
            f"[{low}, {high}], {best} among them"
        )
    for base in entry["baselines"]:
        low, high = map(short, base["difference_interval"])
        text += f"; against {base['name']}: {base['answer']}, difference "
        text += f"{short(base['difference'])} [{low}, {high}]"
    if near := entry["matched"]:
        names = ", ".join(near["as_good"][:5]) or "none"
        text += f"; better than {near['percentile']:.0f} % of {near['count']} matched features"
        text += f", as good: {names}"
    return text + "."


class Sentence:
    """A claim as a cell shows it."""

    def __init__(self, entry: dict[str, Any], tiny: bool):
        self.badge, self.text = entry["badge"], in_a_sentence(entry)
        self.below = []
        if entry["kind"] == "empirical":
            needs = entry["needs"]
            self.below = [] if needs.startswith("no verdict") else [f"SHOWN needs: {needs}."]
            self.below += [f"Here: {entry['why']}."] if entry["why"] else []
        self.text += " [tiny scope]" if tiny else ""

    def __repr__(self) -> str:
        return "\n".join([f"{self.badge:<10} {self.text}", *(f"{'':<10} {x}" for x in self.below)])

    def _repr_markdown_(self) -> str:
        below = f"<br><sub>{_escaped(' '.join(self.below))}</sub>" if self.below else ""
        return f"> **{self.badge}** {_escaped(self.text)}{below}"


class Table:
    """Announced claims as a cell shows them."""

    def __init__(self, claims: Mapping[str, Any]):
        self.rows = [
            (f"{name}/…" if it.family else name, _asked(it), it.needs())
            for name, it in claims.items()
        ]

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {asks} SHOWN if: {needs}." for name, asks, needs in self.rows)

    def _repr_markdown_(self) -> str:
        lines = ["| claim | asks | SHOWN if |", "|---|---|---|"]
        lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in self.rows]
        return "\n".join(lines)


def _asked(it) -> str:
    """The question of a claim, with its family and baselines."""
    family = f" Together for {', '.join(it.family)}." if it.family else ""
    base = f" Compared with {', '.join(it.baselines)}." if it.baselines else ""
    return it.asks + family + base


def _escaped(text: str) -> str:
    """Text as Markdown shows it letter by letter: "<|im_end|>", "$u$" and "*" are no markup."""
    return re.sub(r"([\\`*$|<])", r"\\\1", text)
