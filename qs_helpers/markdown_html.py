"""Notebook cells to HTML: headings with anchors, and formulas as MathML, which needs no script.

exporter  nbconvert's HTML exporter with our template and these formulas
"""

import re
from functools import cache
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

__all__ = ["exporter"]


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
def exporter(templates: Path) -> HTMLExporter:
    """An exporter whose template is the folder `notebook` in `templates`."""
    made = _Exporter(
        template_name="notebook",
        extra_template_basedirs=[str(templates)],
        exclude_anchor_links=True,
    )
    made.register_filter("markdown2html", made.markdown2html)
    return made
