"""Discovery, validation and test: nothing in one of them is like anything in another."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain

import numpy as np

from .record import KINDS, Text, draw, masked, normal, own_group

SPLITS = {"discovery": 0.6, "validation": 0.2, "test": 0.2}


def split_texts(
    records: Iterable[Text],
    seed: int = 0,
    labels: Sequence[str] | None = None,
    wanted: Iterable[str] = (),
) -> tuple[list[Text], Counter]:
    """Texts in disjoint splits without duplicates, and how many were left out, by reason.

    Texts that differ only in case, width or white space are one text; of those that have both
    labels none is kept. Given splits are kept, the others go 60 : 20 : 20 to discovery, validation
    and test. A group goes to one split as a whole, with all that hangs together with it: groups
    "A|x" and "A|y" share A, "A|y" and "B|y" share y. A group of the same name in another language
    is the same group, and a text without a group is a group of its own. Languages and labels are
    spread over the splits as evenly as groups allow, and in each split and language both labels
    get the same number. The same records in another order give the same splits.

    labels: the two to balance, () for none; by default those of the kind whose labels the records
    have. wanted: splits that need both labels in every language, by default all that some text is
    in. ValueError for a language that lacks a label there, a text or group in two given splits,
    and texts of which more than 60 % hang together.
    """
    records = [r if _parts(r.group) else r._replace(group=own_group(r.text)) for r in records]
    if labels is None:
        have = {record.label for record in records}
        labels = next((pair for pair in KINDS.values() if pair and have <= {*pair}), ())
    tied = _tied(records)
    unique, left = _distinct(records, labels)
    placed: dict[tuple[str, str], list[Text]] = defaultdict(list)
    for record in sorted(
        _assigned(unique, tied, seed, labels), key=lambda r: draw(seed, "order", r.text)
    ):
        placed[record.language, record.split].append(record)
    wanted = {*wanted} or {split for _, split in placed}
    out = []
    for language in sorted({language for language, _ in placed}):
        for split in SPLITS:
            here = placed[language, split]
            sides = [[r for r in here if r.label == label] for label in labels] or [here]
            n = min(map(len, sides))
            if labels and not n and split in wanted:
                name = f"language {language!r}" if language else "the source"
                missing = labels[1] if sides[0] else labels[0]
                raise ValueError(
                    f"{name} has no {missing} text for {split}; "
                    "give more texts, or leave the language out"
                )
            left["to balance the labels"] += len(here) - n * len(sides)
            out += [record for side in sides for record in side[:n]]
    return out, +left


def _parts(group: str) -> list[tuple[int, str]]:
    """What a group shares with others: its first part, and its second if it has one."""
    return [(i, part) for i, part in enumerate(group.split("|", 1)) if part]


def _distinct(records: list[Text], labels: Sequence[str]) -> tuple[list[Text], Counter]:
    by_text: dict[str, list[Text]] = defaultdict(list)
    for record in records:
        by_text[normal(record.text)].append(record)
    unique, left = [], Counter()
    for same in by_text.values():
        given = sorted({record.split for record in same} - {""})
        if len(given) > 1:
            raise ValueError(f"a text is in splits {given}: {masked(same[0].text)!r}")
        if labels and len({record.label for record in same}) > 1:
            left["texts with both labels"] += len(same)
        else:
            unique.append(max(same, key=lambda record: (record.split, record)))
            left["repeated texts"] += len(same) - 1
    return unique, left


def _tied(records: list[Text]) -> dict[str, tuple]:
    """Of each text, as `normal` has it, the name of all that it hangs together with: texts that are
    the same, or share a part of their groups, directly or through others."""
    above: dict = {}

    def root(part):
        while above.setdefault(part, part) != part:
            above[part] = part = above[above[part]]
        return part

    for record in records:
        first = root(("text", normal(record.text)))
        for part in map(root, _parts(record.group)):
            above[part] = first
    return {normal(record.text): root(("text", normal(record.text))) for record in records}


def _components(records: list[Text], tied: dict) -> list[list[Text]]:
    together: dict = defaultdict(list)
    for record in records:
        together[tied[normal(record.text)]].append(record)
    return list(together.values())


def _assigned(records: list[Text], tied: dict, seed: int, labels: Sequence[str]) -> list[Text]:
    """Every record with its split."""
    out, free = [], []
    for texts in _components(records, tied):
        given = {record.split for record in texts} - {""}
        if len(given) > 1:
            raise ValueError(_leak(texts))
        if given:
            out += [record._replace(split=min(given)) for record in texts]
        else:
            free.append(texts)
    largest = max(free, key=len, default=[])
    if len(largest) > SPLITS["discovery"] * len(records):
        raise ValueError(_too_large(largest, len(records)))

    def strata(texts: Iterable[Text]) -> Counter:
        return Counter((r.language, r.label if labels else "") for r in texts)

    sizes = strata(chain(*free))
    due = {split: {s: share * n for s, n in sizes.items()} for split, share in SPLITS.items()}
    to_come = Counter(s for texts in free for s in strata(texts))
    empty = {s: set(SPLITS) for s in sizes}
    # Large ones first, as long as there is room to make up for them.
    free.sort(key=lambda texts: (-len(texts), draw(seed, "split", min(r.group for r in texts))))
    for texts in free:
        counts = strata(texts)
        # What would else leave a split empty must go there.
        last = [empty[s] for s in counts if to_come[s] <= len(empty[s])]
        allowed = set.intersection(*last) if last else set()
        gain = {
            split: sum(n * (2 * due[split][s] - n) for s, n in counts.items())
            for split in SPLITS
            if split in allowed or not allowed
        }
        split = max(gain, key=gain.get)
        for s, n in counts.items():
            due[split][s] -= n
            to_come[s] -= 1
            empty[s].discard(split)
        out += [record._replace(split=split) for record in texts]
    return out


def _leak(texts: list[Text]) -> str:
    """Why texts that hang together cannot be in two given splits."""
    splits: dict = defaultdict(set)
    for record in texts:
        for part in _parts(record.group):
            splits[part] |= {record.split} - {""}
    for (_, name), found in sorted(splits.items()):
        if len(found) > 1:
            return f"group {name!r} is in splits {sorted(found)}; what is alike must be in one"
    found = sorted({record.split for record in texts} - {""})
    free = min((record.group for record in texts if not record.split), default="")
    if not free:
        return f"a text that is in more than one group ties texts of the splits {found} together"
    return f"group {free!r} has no split and hangs together with groups of {found}; give it one"


def _too_large(texts: list[Text], n: int) -> str:
    """Why the texts that hang together, of n, cannot be split, and what could be."""
    groups = sorted({record.group for record in texts})
    if len(groups) == 1 and len(texts) == n:
        return f"there is one group only, {groups[0]!r}: nothing is left to test on; give more"
    share = f"{len(texts)} of {n} texts, more than 60 %"
    if len(groups) == 1:
        return f"group {groups[0]!r} holds {share}; give a column split, or smaller groups"
    return (
        f"{len(groups)} groups hang together, such as {', '.join(map(repr, groups[:3]))}, and hold "
        f"{share}; give a column split, or groups of one part (no '|')"
    )


def two_sides(
    texts: Iterable[Text],
    keep: Callable[[Text], bool],
    n: int,
    alike: Callable[[Text], Hashable] | None = None,
    seed: int = 0,
) -> tuple[list[Text], list[Text]]:
    """At most n texts for which keep(text) holds, and as many others, drawn at random.

    alike: if given, each of the others has the same alike(text) as one of the kept, such as its
    language. What has no partner is left out.
    """
    texts = list(texts)
    others: dict[Hashable, list[Text]] = defaultdict(list)
    kept = []
    for i in np.random.default_rng(seed).permutation(len(texts)):
        if keep(texts[i]):
            kept.append(texts[i])
        else:
            others[alike(texts[i]) if alike else None].append(texts[i])
    pairs = []
    for text in kept:
        same = others[alike(text) if alike else None]
        if same and len(pairs) < n:
            pairs.append((text, same.pop()))
    return [pos for pos, _ in pairs], [neg for _, neg in pairs]
