"""A table of the page, with its rows as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """``group`` is the title above neighbouring columns that share it; ``help`` is shown under the pointer."""

    label: str
    number: bool = False
    group: str = ""
    help: str = ""


@dataclass(frozen=True)
class Cell:
    """``text`` is shown, ``notes`` in small print below it; columns are sorted by ``sort``, else by the text.

    ``href`` is a relative address that the text leads to.
    """

    text: str
    sort: float | int | None = None
    notes: Sequence[str] = ()
    bad: bool = False
    colour: str = ""
    code: bool = False
    href: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; ``rows`` are the CSV's, with every digit. Without ``cells`` the page
    shows ``empty``.
    """

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
        """Titles above neighbouring columns and how many they span; empty if no column has one."""
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
    """A mean with its interval and n; a dash if there is none."""
    if score is None or score["mean"] is None:
        return Cell("–", notes=[f"n {score['n']}"] if score is not None else [])
    known = score["low"] is not None and score["n"] > 1
    interval = f"{score['low']:.{digits}f} … {score['high']:.{digits}f}" if known else "no interval"
    return Cell(f"{score['mean']:.{digits}f}", score["mean"], [interval, f"n {score['n']}"])


def csv_file(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as CSV with the keys of the first as header; numbers have every digit, unknown values are empty.

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
