"""Rows that a benchmark measures one by one and keeps in a CSV file: a later call measures only those that it lacks."""

from __future__ import annotations

import csv
from pathlib import Path


class RowFile:
    """The rows of ``path``, all with the columns of the first; its folder is made if it is missing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, object]] = list(csv.DictReader(path.open())) if path.exists() else []

    def find(self, **values: object) -> list[dict[str, object]]:
        """The rows with these values, compared as text: a file holds nothing else."""
        return [row for row in self.rows if all(str(row[name]) == str(value) for name, value in values.items())]

    def add(self, row: dict[str, object]) -> None:
        """Keep and print a row."""
        self.rows.append(row)
        with self._path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        print(row, flush=True)
