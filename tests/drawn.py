"""Texts of the micro-world for tests of other rooms."""

from qs_helpers.texts.load import load_texts


def drawn_requests(n: dict[str, int], languages, seed: int = 0) -> dict[tuple[str, bool], list]:
    """Requests by (split, harmful): n[split] of each label and language."""
    texts = load_texts("tiny", "requests", languages, n, seed)
    return {
        (split, bad): [t for t in texts if (t.split, t.label == "harmful") == (split, bad)]
        for split in n
        for bad in (True, False)
    }
