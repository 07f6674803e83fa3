"""A figure as the page has it (inline SVG that follows its theme) and as a paper needs it (SVG and PDF files).

The same rows give the same bytes: no date, no name of a program, ids from the chart's name.
"""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING

from echodfkd.reporting.figures.chart_style import AXIS, GRID, INK, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THEMED = {INK: "var(--chart-ink)", GRID: "var(--chart-grid)", AXIS: "var(--chart-axis)", QUIET: "var(--chart-quiet)"}


def svg_file(figure: Figure, name: str) -> bytes:
    """An SVG file; letters stay letters, so that an editor can change them."""
    import matplotlib

    if figure.get_layout_engine() is not None:  # it is placed once: each file would do that twice
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    sink = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return sink.getvalue()


def pdf_file(figure: Figure) -> bytes:
    """A PDF file with its fonts inside, as TrueType."""
    import matplotlib

    sink = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(sink, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return sink.getvalue()


def inline_svg(svg: bytes, *, name: str, title: str) -> str:
    """`svg_file`'s content as an element of a page: no prologue, no name spaces, unique ids.

    Args:
        svg: the file.
        name: prefix of its ids: unique in the page.
        title: of the chart; also the text for screen readers.
    """
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    width = float(re.search(r'width="([\d.]+)pt"', text)[1])  # type: ignore[index]
    text = re.sub(r'\b(width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"<[^>]*>", lambda tag: _fit_tag(tag[0], name), text)  # what a reader reads stays as it is
    label = html.escape(title)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" style="max-width:{width * 1.45:.0f}px"', 1)


def _fit_tag(tag: str, name: str) -> str:
    """A tag without name spaces, its ids made unique, its numbers short, its colours those of the page's theme."""
    tag = re.sub(r'\s(xmlns(:\w+)?)="[^"]*"', "", tag).replace("xlink:href", "href")
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', tag)
    tag = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", tag)
    tag = re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)  # more digits are invisible and double the size
    for colour, variable in _THEMED.items():
        tag = tag.replace(colour, variable)
    return tag
