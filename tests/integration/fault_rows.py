"""Rows of the fault table: what the tests of faults measured, and the Markdown made of it.

Tests append to the file that the environment variable FAULT_ROWS names, where it is set;
``python -m tests.integration.fault_rows FILE`` writes them into the table of docs/explanation/faults.md;
its other rows stay.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from echodfkd.runtime.cluster.connection import machine_line
from echodfkd.storage.ledger import LedgerReport

DOCS = Path(__file__).parents[2] / "docs" / "explanation" / "faults.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True)
class FaultRow:
    """One fault that a run survived.

    Attributes:
        fault: what was done.
        detected_s: seconds until it was noticed; None where nothing has to notice it.
        lost, repeated: slots, of the ledger after the run.
        same: the final students are those of the undisturbed run, bit for bit; None where the fault changes the clips.
        extra_s: seconds that the run stood still.
        means: what gets over it.
    """

    fault: str
    detected_s: float | None
    lost: int
    repeated: int
    same: bool | None
    extra_s: float | None
    means: str


def record(
    report: LedgerReport,
    fault: str,
    means: str,
    *,
    detected_s: float | None = None,
    extra_s: float | None = None,
    same: bool | None = None,
) -> None:
    """Keep a row where FAULT_ROWS asks for it."""
    if path := os.environ.get("FAULT_ROWS"):
        row = FaultRow(fault, detected_s, report.lost, report.repeated, same, extra_s, means)
        with Path(path).open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")


HEADER = (
    "| fault | noticed in | lost | repeated | same students | run stood still for | what gets over it |",
    "|---|---|---|---|---|---|---|",
)


def line(row: FaultRow) -> str:
    """A row as Markdown."""
    same = {True: "yes", False: "**no**", None: "not compared"}[row.same]
    cells = (row.fault, _seconds(row.detected_s), row.lost, row.repeated, same, _seconds(row.extra_s), row.means)
    return "| " + " | ".join(map(str, cells)) + " |"


def write_table(rows: Sequence[FaultRow], docs: Path = DOCS) -> None:
    """Put the rows, this machine and the day between the marks of the page. The last row of a fault stands."""
    before, rest = docs.read_text().split(BEGIN)
    old, after = rest.split(END)
    kept = [text for text in old.splitlines() if text.startswith("| ") and text not in HEADER]
    lines = {text.split(" | ")[0].removeprefix("| "): text for text in kept} | {row.fault: line(row) for row in rows}
    measured = f"Measured on {time.strftime('%Y-%m-%d')}: {machine_line()}, all processes on one machine."
    body = "\n".join([*HEADER, *lines.values()])
    docs.write_text(f"{before}{BEGIN}\n{body}\n\n{measured}\n{END}{after}")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


if __name__ == "__main__":
    write_table([FaultRow(**json.loads(line)) for line in Path(sys.argv[1]).read_text().splitlines()])
