"""Documentation as a corpus: prose and nothing else, the same each time, split by module."""

from collections import defaultdict

import pytest

from qs_helpers.texts import load_texts, pydoc

PROSE = (
    "The bus leaves the old harbour of Calais when the last ferry has come in, and it waits for "
    "nobody. If you miss it, the way back to the town is long and it is dark, so it is better to "
    "hurry."
)
SOURCE = f'''"""A module about buses.

{PROSE}

>>> The bus leaves the old harbour when the last ferry is in the port, and it waits for nobody at
>>> all, so it is better to hurry, since it is the last of the day and that is a pity for us.
"""

def wait(harbour):
    r"""Wait for the bus.

    Parameters
    ----------
    harbour : str
        The name of the *old* harbour, as it is in the ``atlas`` of :func:`~ports.find` and in the
        list of `all harbours <https://example.org/x>`_ [1]_. If it is not there, the one that is
        the nearest is taken, and a note of it is kept.

    ======  ==========================================================================
    the     of the table it is in the way of all that is to be read by a person in it
    ======  ==========================================================================
    """
    raise ValueError("The name of a harbour that is not there")
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a.py").write_text(SOURCE.replace("bus", "tram"))
    (tmp_path / "a.py").write_text(SOURCE)
    # The same but for a name: a copy.
    (tmp_path / "b.py").write_text(f'"""{PROSE.replace("Calais", "Dover")}"""\n')
    (tmp_path / "template.py").write_text("{% if this %}\n" + SOURCE)
    (tmp_path / "latin.py").write_bytes(SOURCE.encode() + b"# \xe9\n")
    return tmp_path


def test_prose_is_kept_without_markup_and_everything_else_is_not(folder):
    found = list(pydoc.rows(folders={"mine": folder}))
    assert [row["text"] for _, row in found] == [
        PROSE,
        "The name of the old harbour, as it is in the atlas of ports.find and in the list of all "
        "harbours. If it is not there, the one that is the nearest is taken, and a note of it is "
        "kept.",
    ]
    where, row = found[0]
    assert where == row["group"] == "mine/a.py" and row["language"] == "en"


@pytest.mark.parametrize(
    "text",
    [
        PROSE[:140],
        PROSE * 10,
        PROSE.lower(),
        PROSE.removesuffix("."),
        PROSE + " x = 1.",
        PROSE + " https://example.org.",
        "Sun moon stars planets comets galaxies nebulas rockets telescopes astronauts " * 2
        + "sky.",
    ],
)
def test_what_is_no_paragraph_of_prose(text):
    assert pydoc.is_prose(PROSE) and not pydoc.is_prose(text)


def test_a_library_is_read_in_the_same_order_and_no_module_is_in_two_splits():
    found = list(pydoc.rows("seaborn"))
    assert found == list(pydoc.rows("seaborn")) and len(found) > 80
    assert len({row["text"] for _, row in found}) == len(found)
    texts = load_texts("pydoc:seaborn", "passages", ["en"])
    assert len(texts) == len(found) and {t.source for t in texts} == {"pydoc:seaborn"}
    splits = defaultdict(set)
    for text in texts:
        splits[text.group].add(text.split)
    assert {len(x) for x in splits.values()} == {1} and len(set.union(*splits.values())) == 3


@pytest.mark.long
def test_there_is_enough_to_train_on():
    texts = [row["text"] for _, row in pydoc.rows()]
    assert sum(map(len, texts)) > 3_000_000
    assert {"python", "torch", "transformers", "scipy"} <= pydoc.installed().keys()
