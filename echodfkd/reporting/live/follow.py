"""A page that follows its run: it is written again when the run folder has new files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from echodfkd.core.errors import InputError
from echodfkd.reporting.live.loggers import CurveLogger, write_curves
from echodfkd.reporting.page.report import write_report
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.summary import ledger_counts
from echodfkd.storage.files import RunStorage

_WATCHED = ("scores", "logs", "quarantine", "overlays", "checkpoints", "")
_OURS = ("report.html", "report", "summary.json")


def seen(storage: RunStorage) -> tuple[str, ...]:
    """Names of all files that a report reads: files of a run are written once, so new content has a new name."""
    return tuple(name for folder in _WATCHED for name in storage.list(folder) if name not in _OURS)


def is_over(storage: RunStorage) -> bool:
    """Whether the run has ended with its plan consumed: one that was stopped, failed or is resumed may go on."""
    rows = read_rows(storage)
    counts = ledger_counts(rows)
    stopped = rows.run.get("stopped") or rows.run.get("error")
    return bool(rows.run) and not stopped and not (counts["lost"] or counts["to_come"])


def follow_report(
    storage: RunStorage,
    *,
    every_s: float,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    loggers: Sequence[CurveLogger] = (),
) -> str:
    """Write the page at once and after each change, until the run is over; then once more with its files.

    Args:
        storage: the run folder.
        every_s: seconds between two looks, and between two reloads of the page.
        say: takes a line of progress.
        sleep: waits.
        loggers: get the new points of the curves each time.

    Returns:
        Path of the page.

    Raises:
        InputError: ``every_s`` is below 1, or see `rows.read_rows`.
    """
    if not every_s >= 1:
        raise InputError(f"--every: {every_s} seconds, at least 1 is needed")
    before: tuple[str, ...] | None = None
    while True:
        now = seen(storage)
        if now != before:
            write_curves(storage, loggers)
            if is_over(storage):
                return write_report(storage)
            say(f"{write_report(storage, files=False, refresh_s=every_s)}: {len(now)} files of the run")
            before = now
        sleep(every_s)
