"""Web pages of a report: self-contained, without scripts, with alt text.

notebook_page        one notebook as a whole HTML page
write_notebook_page  the page of an executed notebook, beside it
write_index          the index of a report
read_results         a results.json, or {} where there is none
opening              title and question of a notebook
"""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from .files import short
from .presets import is_tiny

__all__ = ["notebook_page", "opening", "read_results", "write_index", "write_notebook_page"]

TEMPLATES = Path(__file__).parent / "templates"
TINY_RESULTS = Path(__file__).parent / "tiny" / "results.json"
BUILD = "00_build_tiny_scope"  # the notebook that built the embedded scope


def opening(nb) -> tuple[str, str]:
    """Title and question of a notebook, from its first cell: "# title", "**Question.** …"."""
    text = nb.cells[0].source if nb.cells else ""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    question = re.search(r"\*\*Question\.\*\*\s+(.+?)(?=\n\s*\n|\n\*\*|\Z)", text, re.DOTALL)
    return (
        title[1].strip() if title else "",
        " ".join(question[1].split()) if question else "",
    )


def notebook_page(nb, preset: str, pages: set[str], error: str | None = None) -> str:
    """A notebook as one HTML page: code folded, pictures inside, nothing loaded.

    pages: names (without ending) of the notebooks that have a page; links to others become
    plain text. error: one line shown on top.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="notebook",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(nb)

    def link(found: re.Match) -> str:
        name, text = found[1], found[2]
        return f'<a href="{name}.html">{text}</a>' if name in pages else text

    body = re.sub(r'<a href="([\w-]+)\.ipynb">(.*?)</a>', link, body, flags=re.DOTALL)
    return _page(opening(nb)[0] or "Notebook", body, preset, error=error)


def write_notebook_page(outcome, preset: str, pages: set[str]) -> Path:
    """Write the page of an executed notebook beside it, as <notebook>.html; return its path."""
    path = outcome.executed.with_suffix(".html")
    # A run that died before its first cell leaves no executed copy: show the notebook itself.
    source = outcome.executed if outcome.executed.is_file() else outcome.notebook
    nb = nbformat.read(source, as_version=4)
    path.write_text(notebook_page(nb, preset, pages, outcome.error), encoding="utf-8")
    return path


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json, or {} where the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_index(outcomes, preset: str, out: Path, build: Path | None) -> Path:
    """Write `out`/index.html: notebooks, verdicts, how the tiny scope was built, provenance.

    outcomes: those of the report, in order; build: the notebook that built the tiny scope, shown
    as committed on a page of its own, or None. Returns the path of the index.
    """
    rows, provenance = [], {}
    for outcome in outcomes:
        title, question = opening(nbformat.read(outcome.notebook, as_version=4))
        results = read_results(out / outcome.notebook.stem / "results.json")
        provenance = provenance or results.get("provenance", {})
        claims = results.get("claims", [])
        counts = Counter(claim["badge"].lower() for claim in claims)
        rows.append(
            {
                "page": f"{outcome.notebook.stem}.html",
                "title": title or outcome.notebook.stem,
                "question": question,
                "claims": claims,
                "verdicts": ", ".join(f"{n} {badge}" for badge, n in counts.items()),
                "seconds": outcome.seconds,
                "error": outcome.error,
            }
        )
    tiny_build = None
    if build:
        nb = nbformat.read(build, as_version=4)
        pages = {build.stem, *(o.notebook.stem for o in outcomes)}
        page = notebook_page(nb, preset, pages)
        (out / f"{build.stem}.html").write_text(page, encoding="utf-8")
        tiny_build = {
            "page": f"{build.stem}.html",
            "title": opening(nb)[0] or build.stem,
            "claims": read_results(TINY_RESULTS).get("claims", []),
        }
    body = (
        _templates()
        .get_template("index.html.j2")
        .render(preset=preset, rows=rows, tiny_build=tiny_build, provenance=_flat(provenance))
    )
    path = out / "index.html"
    html = _page(f"Qwen-Scope report: {preset}", body, preset, is_index=True)
    path.write_text(html, encoding="utf-8")
    return path


def _page(title: str, body: str, preset: str, **more) -> str:
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return (
        _templates()
        .get_template("page.html.j2")
        .render(title=title, body=body, preset=preset, tiny=is_tiny(preset), style=style, **more)
    )


@cache
def _templates():
    from jinja2 import Environment, FileSystemLoader

    env = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    env.filters["short"] = short
    return env


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of dotted names and text, for a table."""
    if isinstance(value, dict):
        return [row for k, v in value.items() for row in _flat(v, f"{name}.{k}" if name else k)]
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return [(name, str(value))]
