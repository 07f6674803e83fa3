"""A chart of the page, with its data as CSV and the figure as SVG and PDF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from echodfkd.reporting.figures import figure_files
from echodfkd.reporting.page.table import csv_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Chart:
    """One figure. ``caption`` gives n, or the reason if ``figure`` is None; ``rows`` are its data."""

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def _svg(self) -> bytes:
        assert self.figure is not None
        return figure_files.svg_file(self.figure, self.name)

    def on_page(self) -> dict[str, Any]:
        """The values for the template."""
        svg = ""
        if self.figure is not None:
            svg = figure_files.inline_svg(self._svg, name=self.name, title=f"{self.title}. {self.caption}")
        return {"name": self.name, "title": self.title, "caption": self.caption, "svg": svg}

    def files(self) -> dict[str, bytes]:
        """Name in the folder -> content."""
        if self.figure is None:
            return {}
        return {
            f"{self.name}.csv": csv_file(self.rows),
            f"{self.name}.svg": self._svg,
            f"{self.name}.pdf": figure_files.pdf_file(self.figure),
        }
