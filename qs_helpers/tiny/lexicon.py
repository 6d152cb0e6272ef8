"""The words and sentence frames of the tiny world, read from `lexicon.yaml`.

LANGUAGES, SPLITS   the five language codes; the three splits
LEXICON             the tables of the file
CATEGORIES          of requests
form, bare          one cell of a row: with its article or case, or as a bare word
verbs               the harmful or harmless verbs of requests
words               what may fill a slot of a frame, in a language
part                the part of a list that belongs to a split
fill                one sentence from a frame
"""

import random
import re
from functools import cache
from importlib.resources import files

import yaml

__all__ = [
    "CATEGORIES",
    "LANGUAGES",
    "LEXICON",
    "SPLITS",
    "bare",
    "fill",
    "form",
    "part",
    "pick",
    "verbs",
    "words",
]

LANGUAGES = ("en", "fr", "ru", "ja", "zh")
SPLITS = ("discovery", "validation", "test")
LEXICON = yaml.safe_load(files(__package__).joinpath("lexicon.yaml").read_text("utf-8"))
CATEGORIES = tuple(LEXICON["requests"])


def form(row: list[str], lang: str, part: int = 0) -> str:
    """One cell of the lexicon; `part` 1 is the accusative of Russian nouns where it differs."""
    return row[LANGUAGES.index(lang)].split("|")[-1 if part else 0]


def bare(row: list[str], lang: str) -> str:
    word = form(row, lang)
    return re.sub(r"^(the |a |an |le |la |un |une |l')", "", word) if lang in ("en", "fr") else word


def _elide(text: str, lang: str) -> str:
    return re.sub(r"\bde (?=[aeiouéêh])", "d'", text) if lang == "fr" else text


def verbs(label: str, split: str | None = None) -> list[tuple[str, list[str]]]:
    """The "harmful" or "harmless" verbs of requests, or those of a split, each with its category.

    The first verb of every category comes first, then the second of each, so that a part of them
    has verbs of many categories.
    """
    tables = [[(name, row) for row in LEXICON["requests"][name][label]] for name in CATEGORIES]
    return part([pair for pairs in zip(*tables, strict=True) for pair in pairs], split)


def words(slot: str, lang: str, topic: str | None = None) -> dict[str, frozenset[str]]:
    """Surface forms that may fill a slot in a language, each with its topics, or with the
    categories of requests, where it has some."""
    return dict(_words(slot, lang, topic))


@cache
def _words(slot: str, lang: str, topic: str | None) -> dict[str, frozenset[str]]:
    slot = slot.rstrip("2")
    topics = {topic: LEXICON["topics"][topic]} if topic else LEXICON["topics"]
    asked, both = LEXICON["requests"], LEXICON["insults"] + LEXICON["praise"]
    if slot in ("V", "O", "N"):
        key = {"V": "verbs", "O": "things", "N": "name"}[slot]
        tables = {t: [table[key]] if slot == "N" else table[key] for t, table in topics.items()}
    elif slot in ("v", "G"):
        keys = ["goods"] if slot == "G" else ["harmful", "harmless"]
        tables = {c: [row for key in keys for row in table[key]] for c, table in asked.items()}
    elif slot == "L":
        return dict.fromkeys(LANGUAGES, frozenset())
    else:
        table = {"S": "people", "T": "times", "P": "places", "K": "tools", "Ka": "tools"}.get(slot)
        tables = {"": LEXICON[table] if table else both}  # insults and praise: I, Ia, W
    found: dict[str, set[str]] = {}
    for name, rows in tables.items():
        for row in rows:
            accusative = slot in ("O", "N", "G", "Ia", "Ka")
            word = bare(row, lang) if slot == "W" else form(row, lang, accusative)
            found.setdefault(word, set()).update([name] if name else [])
    return {word: frozenset(names) for word, names in found.items()}


@cache
def _choices(slot: str, lang: str, topic: str | None) -> tuple[str, ...]:
    return tuple(_words(slot, lang, topic))


def part(rows: list, split: str | None) -> list:
    """Two fifths, a fifth, two fifths of a list; all of it without a split."""
    two, three = len(rows) * 2 // 5, len(rows) * 3 // 5
    bounds = {"discovery": (0, two), "validation": (two, three), "test": (three, None)}
    return rows[slice(*bounds[split])] if split else rows


def fill(
    rng: random.Random, frame: str, number: int, lang: str, topic=None, foreign=0.0, **given
) -> str:
    """One sentence. `given` fixes slots; each other slot is foreign with probability `foreign`."""
    topic = topic or rng.choice(list(LEXICON["topics"]))
    text = LEXICON["frames"][frame][number][LANGUAGES.index(lang)]

    def word(match: re.Match) -> str:
        slot = match[1]
        if slot in given:
            return given[slot]
        language = rng.choice(LANGUAGES) if rng.random() < foreign else lang
        return rng.choice(_choices(slot, language, topic))

    return _elide(re.sub(r"\{(\w+)\}", word, text), lang)


def pick(rng: random.Random, frame: str, split: str | None = None) -> int:
    count = len(LEXICON["frames"][frame])
    return rng.choice(part(list(range(count)), split))
