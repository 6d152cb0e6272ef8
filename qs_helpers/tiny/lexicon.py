"""The words and sentence frames of the tiny world, read from `lexicon.yaml`.

LANGUAGES, SPLITS   the five language codes; the three splits
LEXICON             the tables of the file
form, bare          one cell of a row: with its article or case, or as a bare word
words               what may fill a slot of a frame, in a language
part                the part of a list that belongs to a split
fill                one sentence from a frame
"""

import random
import re
from functools import cache
from importlib.resources import files

import yaml

__all__ = ["LANGUAGES", "LEXICON", "SPLITS", "bare", "fill", "form", "part", "pick", "words"]

LANGUAGES = ("en", "fr", "ru", "ja", "zh")
SPLITS = ("discovery", "validation", "test")
LEXICON = yaml.safe_load(files(__package__).joinpath("lexicon.yaml").read_text("utf-8"))


def form(row: list[str], lang: str, part: int = 0) -> str:
    """One cell of the lexicon; `part` 1 is the accusative of Russian nouns where it differs."""
    return row[LANGUAGES.index(lang)].split("|")[-1 if part else 0]


def bare(row: list[str], lang: str) -> str:
    word = form(row, lang)
    return re.sub(r"^(the |a |an |le |la |un |une |l')", "", word) if lang in ("en", "fr") else word


def _elide(text: str, lang: str) -> str:
    return re.sub(r"\bde (?=[aeiouéêh])", "d'", text) if lang == "fr" else text


def words(slot: str, lang: str, topic: str | None = None) -> dict[str, str | None]:
    """Surface forms that may fill a slot in a language, each with its topic where it has one."""
    return dict(_words(slot, lang, topic))


@cache
def _words(slot: str, lang: str, topic: str | None) -> dict[str, str | None]:
    slot = slot.rstrip("2")
    topics = [topic] if topic else list(LEXICON["topics"])
    if slot in ("V", "O"):
        key = "verbs" if slot == "V" else "things"
        return {
            form(row, lang, slot == "O"): t for t in topics for row in LEXICON["topics"][t][key]
        }
    if slot == "N":
        return {form(LEXICON["topics"][t]["name"], lang, 1): t for t in topics}
    if slot == "L":
        return dict.fromkeys(LANGUAGES)
    table = {"S": "people", "T": "times", "P": "places", "G": "goods", "K": "tools", "Ka": "tools"}
    both = LEXICON["insults"] + LEXICON["praise"]
    rows = {"I": both, "Ia": both, "W": both, "v": LEXICON["harmful"] + LEXICON["harmless"]}
    rows = rows.get(slot) or LEXICON[table[slot]]
    if slot == "W":
        return {bare(row, lang): None for row in rows}
    return {form(row, lang, slot in ("G", "Ia", "Ka")): None for row in rows}


@cache
def _choices(slot: str, lang: str, topic: str | None) -> tuple[str, ...]:
    return tuple(_words(slot, lang, topic))


def part(rows: list, split: str | None) -> list:
    """A half, a quarter, a quarter of a list; all of it without a split."""
    half, three = len(rows) // 2, len(rows) * 3 // 4
    bounds = {"discovery": (0, half), "validation": (half, three), "test": (three, None)}
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
