"""A chart on the page says what its file says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from echodfkd.reporting.figures.chart_style import INK
from echodfkd.reporting.figures.charts import Line, line_chart
from echodfkd.reporting.figures.figure_files import inline_svg, svg_file


def texts(svg: str) -> list[str]:
    """Everything between the tags, in order, as a browser shows it."""
    root = ElementTree.fromstring(re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL))
    return [text for text in root.itertext() if text.strip()]


def test_every_text_of_the_page_is_that_of_the_file() -> None:
    """Ticks of three decimals, and names that look like numbers, ids, colours and markup."""
    labels = ["lr-0.0003", "lr-0.0005", 'id="x"', f"a {INK} b", "url(#c) xlink:href", "<b>&1.23456", "-->1.98765<!--"]
    lines = [
        Line(label, np.arange(3.0), np.array([0.5251, 0.5262, 0.5275]) + k / 9000) for k, label in enumerate(labels)
    ]
    for log_y in (False, True):
        file = svg_file(line_chart(lines, x_label="step", y_label="loss 0.12345", log_y=log_y), "c")
        page = inline_svg(file, name="c", title="Title 0.98765")
        shown = texts(page)
        assert shown == texts(file.decode())
        assert {"lr-0.0003", "lr-0.0005", "loss 0.12345"} <= set(shown)
        assert log_y or len([text for text in shown if re.fullmatch(r"0\.\d{3,}", text)]) >= 3
        assert 'aria-label="Title 0.98765"' in page


def test_the_page_follows_its_theme_and_is_smaller_than_the_file() -> None:
    line = Line("a", np.arange(300.0), np.random.default_rng(0).random(300))
    file = svg_file(line_chart([line], x_label="step", y_label="loss"), "c")
    page = inline_svg(file, name="c", title="t")
    assert INK not in page
    assert "var(--chart-ink)" in page
    assert len(page) < len(file)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r"""(?:href="|url\()#([^")]+)""", page)) <= set(ids)
