"""Every committed verdict, judged again from its own numbers by a rule written here anew."""

import json
import re
from math import isfinite
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from qs_helpers.evidence import stats
from qs_helpers.evidence.claims import announce, claim, holds
from qs_helpers.evidence.record import start_run

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "figures").glob("**/results.json"))
COMMITTED += [ROOT / "qs_helpers" / "tiny" / "results.json"]
ID = r"[a-z0-9]+(-[a-z0-9]+)*(/.*\S.*)?"


def naive_badge(entry: dict) -> str:
    """The rule, from the numbers of an entry alone."""
    null, below, above = entry["null"], entry["below"], entry["above"]
    wants_null = "draws" in entry["needs"]  # "… of at least 19 draws"
    if above is None and below is None and not wants_null:
        return "MEASURED"
    if wants_null and null is None:
        return "MEASURED"
    if not isfinite(float(entry["value"])) or entry["interval"] is None:
        return "MEASURED"
    intervals = [entry["interval"]] + ([null["difference_interval"]] if null else [])
    intervals = [(float(low), float(high)) for low, high in intervals]
    if not all(low < high for low, high in intervals):  # nan too
        return "MEASURED"
    if (entry["n"] or 0) < 1 or (entry["groups"] or 0) < 8:
        return "MEASURED"
    if null and null["draws"] + 1 < 20 * entry["family"]:
        return "MEASURED"
    low, high = intervals[0]
    shown = True
    if above is not None and low <= above:
        shown = False
    if below is not None and high >= below:
        shown = False
    if null:
        fewer = "lowest" in entry["needs"]
        ends = intervals[1]
        beyond = ends[1] < -null["margin"] if fewer else ends[0] > null["margin"]
        first = entry["value"] < null["best"] if fewer else entry["value"] > null["best"]
        shown = shown and beyond and first and null["rank"] == 1
    return "SHOWN" if shown else "NOT SHOWN"


def problems(claims: list[dict]) -> list[str]:
    """What is wrong with the claims of a run, a line each."""
    if old := [c for c in claims if "id" not in c]:
        return [f"{len(old)} of {len(claims)} claims have no id: run it again (make refresh)"]
    found = []
    names = [c["id"] for c in claims]
    found += [f"{name}: twice" for name in sorted(set(names)) if names.count(name) > 1]
    for c in claims:
        name = c["id"]
        if not re.fullmatch(ID, name):
            found.append(f"{name!r}: not the form of an id")
        if not c["sentence"].strip():
            found.append(f"{name}: no sentence")
        if c["kind"] == "invariant":
            if c["badge"] != "HOLDS":
                found.append(f"{name}: {c['badge']}")
            continue
        if c["badge"] != naive_badge(c):
            found.append(f"{name}: {c['badge']}, but by its numbers {naive_badge(c)}")
        if bool(c["why"]) == (c["badge"] == "SHOWN"):
            found.append(f"{name}: {c['badge']} because of {c['why']!r}")
        if c["family"] > 1 and "/" not in name:
            found.append(f"{name}: of a family of {c['family']}")
        if c["badge"] in ("SHOWN", "NOT SHOWN"):
            if c["above"] is None and c["below"] is None and c["null"] is None:
                found.append(f"{name}: neither threshold nor null control")
            if not c["interval"] or not float(c["interval"][0]) < float(c["interval"][1]):
                found.append(f"{name}: an interval without width")
            if not c["n"] or (c["groups"] or 0) < 8:
                found.append(f"{name}: n {c['n']}, groups {c['groups']}")
            if not c["needs"] or c["needs"].startswith("no verdict"):
                found.append(f"{name}: says not what it needs")
    return found


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: "-".join(p.parts[-3:-1]))
def test_committed_claims_keep_to_the_rule(path):
    assert problems(json.loads(path.read_text(encoding="utf-8"))["claims"]) == []


# ---- the check itself, on claims that a small run makes


@pytest.fixture
def made():
    """Claims of all kinds and badges, as results.json holds them."""
    run, rng = start_run("01_load", "tiny"), np.random.default_rng(0)
    null = {"null": "random directions", "margin": 0.1}
    announce(
        {
            "rate": {"asks": "How often?"},
            "high": {"asks": "Often?", "above": 0.7},
            "too-high": {"asks": "Very often?", "above": 0.95},
            "rare": {"asks": "Seldom?", "below": 0.4},
            "steers": {"asks": "More?", "family": ["de", "fr"]} | null,
            "stops": {"asks": "Fewer?", "fewer": True, "below": 0.5, "baselines": {"mask": 0.1}}
            | null,
            "few": {"asks": "Of few groups?", "above": 0.1},
        }
    )
    hits = rng.random(60) < 0.9
    claim("rate", "Often", stats.share(hits))
    claim("high", "Often", stats.share(hits), samples={"by": "share", "hits": hits})
    claim("too-high", "Often", stats.share(hits))
    claim("rare", "Seldom", stats.share(~hits))
    for name, values in (("de", hits), ("fr", rng.random(60) < 0.1)):
        nulls = rng.random((39, 60)) < 0.1
        against = stats.against(values, nulls, family=2)
        claim(f"steers/{name}", "More", stats.share(values, None, 2), null=against)
    against = stats.against(~hits, rng.random((19, 60)) < 0.8)
    mask = stats.difference(~hits, rng.random(60) < 0.5)
    beside = {"baselines": {"mask": mask}, "matched": {7: 0.2, 9: 0.05}}
    claim("stops", "Fewer", stats.share(~hits), null=against, **beside)
    claim("few", "Of seven", stats.share([1, 1, 1, 1, 1, 1, 0]))
    holds("hooks-left", "No hook is left", True)
    return json.loads((run.folder / "results.json").read_text(encoding="utf-8"))["claims"]


def test_claims_of_a_run_keep_to_the_rule(made):
    assert problems(made) == []
    badges = {c["id"]: c["badge"] for c in made}
    assert badges == {
        **{"rate": "MEASURED", "high": "SHOWN", "too-high": "NOT SHOWN", "rare": "SHOWN"},
        **{"steers/de": "SHOWN", "steers/fr": "NOT SHOWN", "stops": "SHOWN", "few": "MEASURED"},
        "hooks-left": "HOLDS",
    }


SCHEMA = ROOT / "qs_helpers" / "report" / "schemas" / "notebook.schema.json"


def fits(claims: list[dict]) -> bool:
    """Whether claims have the form that the schema of results.json describes."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    part = {"$defs": schema["$defs"], **schema["properties"]["claims"]}
    return jsonschema.Draft202012Validator(part).is_valid(claims)


def test_claims_fit_the_schema(made):
    assert fits(made)
    by_id = {c["id"]: c for c in made}
    for name, change in (
        ("high", {"badge": "HOLDS"}),
        ("high", {"id": "High"}),
        ("high", {"value": "many"}),
        ("high", {"interval": [1]}),
        ("high", {"passes": True}),
        ("high", {"samples": {"by": "share", "file": "claims/high.csv"}}),
        ("high", {"samples": by_id["high"]["samples"] | {"file": "../high.csv"}}),
        ("steers/de", {"null": {"name": "random directions"}}),
        ("hooks-left", {"badge": "SHOWN"}),
        ("hooks-left", {"kind": "guess"}),
    ):
        assert not fits([by_id[name] | change]), change
    assert fits([by_id["high"] | {"value": "nan", "interval": ["-inf", "inf"]}])
    del by_id["high"]["needs"]
    assert not fits([by_id["high"]])


@pytest.mark.parametrize(
    ("id", "change", "says"),
    [
        ("high", {"badge": "NOT SHOWN"}, "high: NOT SHOWN, but by its numbers SHOWN"),
        ("too-high", {"badge": "SHOWN"}, "too-high: SHOWN, but by its numbers NOT SHOWN"),
        ("rate", {"badge": "SHOWN"}, "rate: neither threshold nor null control"),
        ("high", {"above": 0.9}, "high: SHOWN, but by its numbers NOT SHOWN"),
        ("high", {"interval": [0.9, 0.9]}, "high: an interval without width"),
        ("high", {"interval": None}, "high: an interval without width"),
        ("high", {"groups": 7}, "high: SHOWN, but by its numbers MEASURED"),
        ("high", {"groups": None}, "high: n 60, groups None"),
        ("high", {"needs": ""}, "high: says not what it needs"),
        ("high", {"id": "too-high"}, "too-high: twice"),
        ("high", {"id": "High, of layer 3"}, "not the form of an id"),
        ("high", {"sentence": " "}, "high: no sentence"),
        ("rare", {"below": 0.01}, "rare: SHOWN, but by its numbers NOT SHOWN"),
        ("stops", {"value": 0.99}, "stops: SHOWN, but by its numbers NOT SHOWN"),
        ("steers/de", {"family": 3}, "steers/de: SHOWN, but by its numbers MEASURED"),
        ("steers/de", {"null": None}, "steers/de: SHOWN, but by its numbers MEASURED"),
        ("hooks-left", {"badge": "BROKEN"}, "hooks-left: BROKEN"),
    ],
)
def test_a_claim_that_was_tampered_with_is_found(made, id, change, says):
    entry = next(c for c in made if c["id"] == id)
    entry |= change
    assert says in "; ".join(problems(made))


def test_claims_of_the_old_form_are_told():
    assert problems([{"text": "x", "badge": "SHOWN"}]) == [
        "1 of 1 claims have no id: run it again (make refresh)"
    ]
