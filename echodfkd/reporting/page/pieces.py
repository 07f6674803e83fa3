"""What a page is made of: charts and tables, each with its rows as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from echodfkd.reporting.figures import figure_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "report"
"""Beside the page: the CSV of every chart and table, and every chart as SVG and PDF."""


@dataclass(frozen=True)
class Chart:
    """One figure: ``caption`` says n, ``rows`` are its data. ``figure`` None: ``caption`` says why there is none."""

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
        """What the template shows."""
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


@dataclass(frozen=True)
class Column:
    """``group`` stands above neighbours that share it; ``help`` is shown where a pointer rests."""

    label: str
    number: bool = False
    group: str = ""
    help: str = ""


@dataclass(frozen=True)
class Cell:
    """``text`` is shown, ``sort`` is what the column is sorted by (else the text), ``notes`` stand below, small."""

    text: str
    sort: float | int | None = None
    notes: Sequence[str] = ()
    bad: bool = False
    colour: str = ""
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; ``rows`` are the CSV's, with every digit. No ``cells``: ``empty``."""

    name: str
    title: str
    columns: Sequence[Column]
    cells: Sequence[Sequence[Cell]]
    rows: Sequence[Mapping[str, Any]] = ()
    empty: str = ""
    note: str = ""
    marked: frozenset[int] = field(default_factory=frozenset)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Titles above neighbouring columns and how many they span; empty where no column has one."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found if any(name for name, _ in found) else []

    def files(self) -> dict[str, bytes]:
        """Name in the folder -> content."""
        return {f"{self.name}.csv": csv_file(self.rows)} if self.cells else {}


def score_cell(score: Mapping[str, Any] | None, digits: int) -> Cell:
    """A mean with its interval and n; a dash where there is none."""
    if score is None or score["mean"] is None:
        return Cell("–", notes=[f"n {score['n']}"] if score is not None else [])
    known = score["low"] is not None and score["n"] > 1
    interval = f"{score['low']:.{digits}f} … {score['high']:.{digits}f}" if known else "no interval"
    return Cell(f"{score['mean']:.{digits}f}", score["mean"], [interval, f"n {score['n']}"])


def csv_file(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as CSV, the first one's keys as header; numbers with every digit, what is not known is empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    rows = list(rows)
    sink = io.StringIO(newline="")
    if rows:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows([_field(row.get(key)) for key in rows[0]] for row in rows)
    return sink.getvalue().encode()


def _field(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        text = value.replace("\0", "")
        return f"'{text}" if text[:1] in tuple("=+-@\t\r") and text else text
    return repr(float(value)) if isinstance(value, float) else str(value)
