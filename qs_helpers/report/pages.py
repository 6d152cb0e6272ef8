"""Web pages of a report: self-contained, without scripts, with alt text and formulas as MathML."""

import base64
import io
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from ..evidence import answer
from ..evidence.files import read_json, short, write_whole
from ..evidence.sentences import Sentence, in_a_sentence
from ..presets import is_tiny, without_home
from .check import Plan
from .refresh import fill_answer
from .run import RESULTS, Outcome
from .stamps import digest

TEMPLATES = Path(__file__).parent / "templates"
ORDER = ("BROKEN", "NOT SHOWN", "SHOWN", "MEASURED", "HOLDS")  # of verdicts, on every page
TINY_RESULTS = Path(__file__).parents[1] / "tiny" / RESULTS


class _Renderer(IPythonRenderer):
    def heading(self, text: str, level: int, **attrs) -> str:
        anchor = re.sub(r"\W+", "-", re.sub(r"<[^>]+>", "", text)).strip("-").lower()
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def inline_math(self, body: str) -> str:
        return self._math(body, "inline")

    def block_math(self, body: str) -> str:
        return self._math(body, "block")

    def _math(self, body: str, display: str) -> str:
        try:
            return convert(body.strip(), display=display)
        except Exception:  # what is no LaTeX is shown as it was written
            return f"<code>{self.escape_html(body)}</code>"


class _Exporter(HTMLExporter):
    def markdown2html(self, source: str) -> str:
        renderer = _Renderer(escape=False, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


@cache
def _exporter() -> HTMLExporter:
    """An exporter whose template is templates/notebook."""
    where = {"template_name": "notebook", "extra_template_basedirs": [str(TEMPLATES)]}
    return _Exporter(exclude_anchor_links=True, **where)


def opening(nb) -> tuple[str, str]:
    """Title and question of a notebook, from its first cell: "# title", "**Question.** …"."""
    text = nb.cells[0].source if nb.cells else ""
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    question = re.search(r"\*\*Question\.\*\*\s+(.+?)(?=\n\s*\n|\n\*\*|\Z)", text, re.DOTALL)
    return title[1].strip() if title else "", " ".join(question[1].split()) if question else ""


def notebook_page(
    nb,
    stem: str,
    preset: str,
    pages: set[str],
    results: dict[str, Any] | None = None,
    error: str | None = None,
    with_code: bool = False,
) -> str:
    """A notebook as one HTML page: claims, provenance and contents on top, nothing loaded.

    stem: its name, for links; pages: names of the notebooks that have a page (links to others
    become plain text); results: its results.json; error: one line shown on top.
    """
    results = results or {}
    ending = ".code.html" if with_code else ".html"

    def rendered(cells) -> str:
        part = nbformat.v4.new_notebook(cells=cells)
        body, _ = _exporter().from_notebook_node(part, {"with_code": with_code})
        # A wide table scrolls, and a keyboard must reach it to do so.
        body = body.replace('class="dataframe"', 'class="dataframe" tabindex="0"')
        return re.sub(r'<a href="([\w-]+)\.ipynb">(.*?)</a>', link, body, flags=re.DOTALL)

    def link(found: re.Match) -> str:
        name, text = found[1], found[2]
        return f'<a href="{name}{ending}">{text}</a>' if name in pages else text

    top = 1 + any(answer.CALL in cell.source for cell in nb.cells[1:2])
    first, rest = rendered(nb.cells[:top]), rendered(nb.cells[top:])
    headings = re.findall(r'<h([23]) id="([^"]+)">(.*?)</h\1>', rest, re.DOTALL)
    headings = [(level, anchor, re.sub(r"<[^>]+>", "", text)) for level, anchor, text in headings]
    about = {"verdicts": _verdicts(results), "provenance": provenance_rows(results)}
    about["claims"] = results.get("claims", [])
    body = first + render("summary", results=results, headings=headings, **about) + rest
    other = (f"{stem}.html", "without code") if with_code else (f"{stem}.code.html", "with code")
    about = {"name": f"preset {preset}", "tiny": is_tiny(preset), "error": error}
    about |= {"title": opening(nb)[0] or "Notebook", "links": [("index.html", "Report"), other]}
    return render("page", body=body, **about)


def write_notebook_pages(outcome: Outcome, pages: set[str]) -> None:
    """Write <notebook>.html and <notebook>.code.html of an executed notebook beside it.

    The prose is that of the notebook as it is now; the outputs are those of the run.
    """
    run = outcome.run
    nb = nbformat.read(run.notebook, as_version=4)
    # A run that died before its first cell leaves no executed copy: show the notebook itself.
    if run.executed.is_file():
        nb = _with_prose(nbformat.read(run.executed, as_version=4), nb)
        fill_answer(nb, run)
    results = read_json(run.results)
    _write_pages(run.out, nb, run.stem, run.preset.name, pages, results, outcome.error)


def _write_pages(out: Path, nb, stem: str, *rest) -> None:
    """Write both pages of a notebook, unless they are there and were made from the same parts."""
    code = [path.read_text("utf-8") for path in [Path(__file__), *sorted(TEMPLATES.rglob("*.*"))]]
    parts = [code, nbformat.writes(nb), stem, *(sorted(x) if type(x) is set else x for x in rest)]
    mark = f"<!-- made of {digest(parts)} -->\n"
    for ending, with_code in ((".html", False), (".code.html", True)):
        path = out / f"{stem}{ending}"
        if not (path.is_file() and path.read_text("utf-8").endswith(mark)):
            page = notebook_page(nb, stem, *rest, with_code)
            write_page(path, page + mark)


def _with_prose(executed, notebook):
    """An executed copy with the markdown of the notebook, if their code is the same."""
    ran = [c for c in executed.cells if c.cell_type == "code"]
    ran = [c for c in ran if "injected-parameters" not in c.metadata.get("tags", [])]
    now = [c for c in notebook.cells if c.cell_type == "code"]
    if [c.source for c in ran] != [c.source for c in now]:
        return executed
    left = iter(ran)
    notebook.cells = [next(left) if c.cell_type == "code" else c for c in notebook.cells]
    return notebook


def write_index(plan: Plan, outcomes: list[Outcome], build: Path | None) -> Path:
    """Write index.html: notebooks, verdicts, how the tiny scope was built, provenance.

    outcomes: those to list, in order; build: the notebook that built the tiny scope, shown as
    committed on a page of its own, or None. Returns the path of the index.
    """
    rows, about, preset, built = [], {}, plan.preset.name, None
    for outcome in outcomes:
        run, results = outcome.run, read_json(outcome.run.results)
        nb = nbformat.read(run.notebook, as_version=4)
        row = _row(nb, run.stem, results) | _hero(run.folder / "figures", results)
        rows.append(row | {"outcome": outcome})
        about[row["title"]] = provenance_rows(results)
    if build:
        nb, results = nbformat.read(build, as_version=4), read_json(TINY_RESULTS)
        pages = {build.stem, *(outcome.run.stem for outcome in outcomes)}
        _write_pages(plan.out, nb, build.stem, preset, pages, results, None)
        built = _row(nb, build.stem, results)
    name, seconds = plan.out.name, sum(outcome.seconds for outcome in outcomes)
    total = _verdicts({"claims": [claim for row in rows for claim in row["claims"]]})
    found = {"rows": rows, "tiny_build": built, "provenance": _once(about)}
    body = render("index", name=name, seconds=seconds, total=total or "no claims", **found)
    about = {"name": f"preset {preset}", "tiny": is_tiny(preset), "wide": True}
    path = plan.out / "index.html"
    page = render("page", title=f"Qwen-Scope report: {name}", body=body, **about)
    write_page(path, page)
    return path


def write_page(path: Path, page: str) -> None:
    """Write a page whole, without the names of home folders; halves of characters are escaped."""
    write_whole(path, without_home(page).encode(errors="backslashreplace"))


def _row(nb, stem: str, results: dict[str, Any]) -> dict[str, Any]:
    """What the index says of a notebook."""
    title, question = opening(nb)
    row = {"stem": stem, "title": title or stem, "question": question}
    row |= {"answer": plain(results.get("answer", {}).get("text", ""))}
    first, rest = _first_sentences(row["answer"])
    claims = results.get("claims", [])
    judged = [claim for claim in claims if claim["badge"] not in ("HOLDS", "BROKEN")]
    judged.sort(key=lambda claim: ORDER.index(claim["badge"]))
    row |= {"first": first, "rest": rest}
    row["open"] = [claim for claim in judged if claim["badge"] == "NOT SHOWN"]
    row |= {"invariants": [claim for claim in claims if claim not in judged], "judged": judged}
    return row | {"claims": claims, "verdicts": _verdicts(results)}


def plain(text: str) -> str:
    """A text without the marks of emphasis and of code, which are for Markdown."""
    return re.sub("[*`]", "", text)


def _first_sentences(text: str, most: int = 340) -> tuple[str, str]:
    """A text in two: its first sentences, about `most` characters of them, and the rest. A caution
    stays with what it warns of."""
    sentences = re.split(r"(?<=[.!?]) (?=[^a-z])", text)
    n = 1
    while n < len(sentences) and (
        len(" ".join(sentences[: n + 1])) <= most or sentences[n].startswith("Caution")
    ):
        n += 1
    return " ".join(sentences[:n]), " ".join(sentences[n:])


def _hero(figures: Path, results: dict[str, Any]) -> dict[str, str]:
    """The picture of a run's answer, made small, as base64 with its alt text; {} where none is."""
    slug = results.get("answer", {}).get("hero")
    path = figures / f"{slug}.png"
    if slug is None or not path.is_file():
        return {}
    alts = {figure["slug"]: figure["alt"] for figure in results["figures"]}
    return {"hero": small_picture(path, 480), "alt": alts.get(slug, slug)}


def small_picture(path: Path, most: int) -> str:
    """A picture of at most `most` pixels a side and 64 colours, as base64 of a PNG."""
    picture, small = Image.open(path).convert("RGB"), io.BytesIO()
    picture.thumbnail((most, most))
    picture.quantize(64).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _once(about: dict[str, list]) -> list[tuple[str, list]]:
    """Rows of provenance by notebook, those that all of them share said once, first."""
    tables = [table for table in about.values() if table]
    same = [row for row in tables[0] if all(row in table for table in tables)] if tables else []
    own = [(title, [row for row in table if row not in same]) for title, table in about.items()]
    return [("Of all notebooks", same), *own] if len(tables) > 1 else [*about.items()]


def render(template: str, **values) -> str:
    """A template of this room, filled in."""
    return _templates().get_template(f"{template}.html.j2").render(**values)


@cache
def _templates() -> Environment:
    blocks = {"trim_blocks": True, "lstrip_blocks": True}
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, **blocks)
    made.filters["short"] = short
    made.filters["plain"] = plain
    made.filters["in_a_sentence"] = in_a_sentence
    made.filters["below"] = lambda entry: Sentence(entry, tiny=False).below
    return made


def _verdicts(results: dict[str, Any]) -> str:
    """ "1 not shown, 3 shown": what needs attention first"""
    counts = Counter(claim["badge"] for claim in results.get("claims", []))
    return ", ".join(f"{counts[badge]} {badge.lower()}" for badge in ORDER if counts[badge])


def provenance_rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of names and values: parameters, run, model and SAEs with hashes, versions."""
    if not results:
        return []
    rows = {"parameters": results["params"]}
    rows |= {name: results[name] for name in ("started", "seconds", "peak_rss_mb", "cores")}
    rows |= {name: v for name, v in results.get("provenance", {}).items() if name != "versions"}
    return _flat(rows | {"versions": results["versions"]})


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested mappings as rows of dotted names and text, for a table."""
    if isinstance(value, dict):
        return [row for k, v in value.items() for row in _flat(v, f"{name}.{k}" if name else k)]
    if isinstance(value, list):
        # An empty list of layers means all of them.
        value = ", ".join(map(str, value)) or ("all" if name.endswith("LAYERS") else "none")
    return [] if value is None else [(name, str(value))]
