"""English prose that is on every machine: the documentation in Python's and the libraries' sources.

Enough to train a sparse autoencoder of a small English model on, without any download. Sources are
parsed and never imported. Their texts keep the licences of their packages, and are not shipped.
"""

import ast
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..presets import nearest

# Those of requirements.lock whose documentation is the longest; what is not installed is left out.
LIBRARIES = (
    "torch transformers scipy numpy sklearn pandas matplotlib sympy networkx IPython PIL seaborn "
    "huggingface_hub pydantic"
).split()
LEFT_OUT = {"test", "tests", "_vendor", "lib2to3", "idlelib", "site-packages"}
LENGTH = (150, 1500)  # characters of a paragraph

# reStructuredText and Markdown to plain text, in this order.
PLAIN = [
    (r":[a-z:]+:`[~!]?([^`<]*?)\s*(?:<[^`>]*>)?`", r"\1"),  # :func:`name`, :ref:`title <label>`
    (r"`+([^`<]+?)\s*<[^`>]*>`+_{0,2}", r"\1"),  # `title <address>`_
    (r"\[([^\]]+)\]\([^)]*\)", r"\1"),  # [title](address)
    (r"\s*\[[\w#*]+\]_+", ""),  # a footnote [1]_
    (r"``?([^`]+?)``?_{0,2}", r"\1"),  # ``code``
    (r"(?<![\w*])\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}(?![\w*])", r"\1"),  # *stressed*
    (r"\\([*_`|\\])", r"\1"),
    (r"\s+", " "),
]
PLAIN = [(re.compile(pattern), by) for pattern, by in PLAIN]
BEGINS = re.compile(r"[A-Z][a-z]*('[a-z]+)? [\w(\"'-]")  # a sentence: no list, no heading
ENDS = re.compile(r"[.?!][\"')]*$")
NO_PROSE = re.compile(
    r"[{}|<>=~^$@#`\\]|\.\. |::|--|:\w|\W- |\w/\w+/|https?:|www\.|__|[^\x00-\x7f]"
)
SMALL = set(
    "the of to a an in is are be and or that this it for with as by on from not can will if which "
    "when at has have was were its than then but may no one all only".split()
)


def rows(part: str = "", folders: dict[str, Path] | None = None) -> Iterator[tuple[str, dict]]:
    """("scipy/stats/_qmc.py", row) of each paragraph, in the same order each time.

    A row has text, language "en", and as group the module, so that no module is in two splits.
    Of paragraphs that differ only in names and numbers (many are copied from class to class) the
    first is given. All of it takes a minute to read. part: one package's only, such as "scipy", or
    "python". folders: name to folder of sources; by default those of Python and LIBRARIES.
    ValueError for a package that is not there.
    """
    seen, folders = set(), installed() if folders is None else folders
    if part and part not in folders:
        raise ValueError(f"source 'pydoc:{part}': {nearest(part, folders)}")
    for package, folder in folders.items():
        if part not in ("", package):
            continue
        for path in sorted(folder.rglob("*.py")):
            place = path.relative_to(folder)
            if LEFT_OUT & {*place.parts[:-1]}:
                continue
            for text in paragraphs(path):
                # Names have capitals, dots or underscores; what is left is the sentence.
                key = tuple(re.findall(r"(?<![\w.])[a-z]+(?![\w]|\.\w)", text))
                if key not in seen:
                    seen.add(key)
                    where = f"{package}/{place.as_posix()}"
                    yield where, {"text": text, "language": "en", "group": where}


def installed() -> dict[str, Path]:
    """Name to folder: Python's own library first, then the LIBRARIES that are there."""
    site = Path(sysconfig.get_path("purelib"))
    found = {"python": Path(sysconfig.get_path("stdlib"))}
    return found | {name: site / name for name in LIBRARIES if (site / name).is_dir()}


def paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of English prose in the strings of a Python file, markup removed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in other people's strings
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError, OSError):  # a template, or not UTF-8
        return
    for node in ast.walk(tree):  # not docstrings alone: much is in tables of strings
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if len(node.value) >= LENGTH[0]:
                for block in re.split(r"\n\s*\n", inspect.cleandoc(node.value)):
                    yield from _prose(block)


def _prose(block: str) -> Iterator[str]:
    """The prose in a block of lines: runs of lines with one indentation that are sentences."""
    run, indent = [], None
    for line in [*block.splitlines(), None]:
        at = None if line is None else len(line) - len(line.lstrip())
        if at != indent and run:
            text = " ".join(run)
            for pattern, by in PLAIN:
                text = pattern.sub(by, text)
            if is_prose(text):
                yield text
            run = []
        indent = at
        run += [line.strip()] if line else []


def is_prose(text: str) -> bool:
    """Whether a text is a paragraph of English sentences, and no code, table, list or formula."""
    if not (LENGTH[0] <= len(text) <= LENGTH[1] and BEGINS.match(text) and ENDS.search(text)):
        return False
    if NO_PROSE.search(text):
        return False
    words = text.lower().split()
    letters = sum(map(str.isalpha, text)) + text.count(" ")
    return letters > 0.9 * len(text) and sum(word in SMALL for word in words) > 0.25 * len(words)
