"""Live view of a run on a terminal: a page that stays in place while log lines pass above it.

It needs rich (extra `[live]`) and a terminal; without either a run prints its plain lines (`runtime.progress`), as it
does into a file or the log of a submitted job.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from echodfkd.core.counter import clock_time, on_terminal
from echodfkd.core.redaction import redact
from echodfkd.core.terminal import escaped

MAX_STUDENTS = 8
"""Students shown by name: those of lowest loss."""


@dataclass(frozen=True)
class ProgressSnapshot:
    """State of a run at one moment.

    Attributes:
        values: of the progress actor (`training.progress.Progress.report`, `runtime.evaluator_pool`).
        elapsed_s: since the run's parts were started.
        total: updates of the run.
        clips_s: clips trained a second, lately; None before the second update.
        eta_s: seconds to the last update, likewise.
        queue: clips taught and not yet trained.
        memory_mb: of the driver's processes.
        silent_s: seconds since the newest update.
        segment: of the stream, from 1.
        living: processes of each role, in words.
        shares: share of the last minute that the processes of a stage were at work, by stage.
        waits: roles that find no room, and the holder; empty if there are none.
    """

    values: Mapping[str, Any]
    elapsed_s: float
    total: int
    clips_s: float | None
    eta_s: float | None
    queue: int
    memory_mb: float
    silent_s: float = 0.0
    segment: int = 1
    living: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    waits: str = ""


class LiveView:
    """The page, until it is closed. Make it with `live_view`."""

    def __init__(self, name: str, console: Any) -> None:
        from rich.live import Live

        self._name = name
        self._live = Live(console=console, refresh_per_second=2, transient=True)
        self._live.start()

    def show(self, snapshot: ProgressSnapshot) -> None:
        """Draw the state."""
        self._live.update(page(self._name, snapshot))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()


def live_view(name: str, stream: Any = None) -> LiveView | None:
    """A page for the run of this name; None if the output is no terminal, or rich is not installed."""
    stream = stream or sys.stdout
    if not on_terminal(stream):
        return None
    from rich.console import Console

    return LiveView(name, Console(file=stream))


def page(name: str, snapshot: ProgressSnapshot) -> Any:
    """The page as rich draws it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    values, step = snapshot.values, int(snapshot.values.get("step", 0))
    eta = "" if snapshot.eta_s is None else f", {clock_time(snapshot.eta_s)} left"
    state = f"update {step:,} of {snapshot.total:,}"
    if step >= snapshot.total:
        state, eta = f"all {step:,} updates are done; scoring, drawing and the report follow", ""
    head = _text(f"{name}  {state}, {clock_time(snapshot.elapsed_s)}{eta}", "bold")
    if not step:
        start = _text(f"{name}  {clock_time(snapshot.elapsed_s)}", "bold")
        return Group(start, _text(STARTING), *_places(snapshot), _memory(snapshot))
    stages = Table("stage", "at work", "one actor", box=None, pad_edge=False)
    for stage in (key.removesuffix("_clips_s") for key in values if key.endswith("_clips_s")):
        if stage.partition(".")[0] in ("source", "generator", "teacher"):
            share = f"{100 * snapshot.shares[stage]:.0f} %" if stage in snapshot.shares else ""
            rate = float(values[f"{stage}_clips_s"])
            stages.add_row(_text(stage), share, f"{rate:.0f} clips/s" if rate >= 10 else f"{rate:.2g} clips/s")
    wait = 100 * float(values.get("wait_share", 0.0))
    stages.add_row(
        "students", f"{100 - wait:.0f} %", "" if snapshot.clips_s is None else f"{snapshot.clips_s:.3g} clips/s"
    )
    losses = sorted(dict(values.get("losses", {})).items(), key=lambda item: item[1])
    students = Table("student", "loss", box=None, pad_edge=False)
    for student, loss in losses[:MAX_STUDENTS]:
        students.add_row(_text(student), f"{loss:.4f}")
    if len(losses) > MAX_STUDENTS:
        students.add_row(f"and {len(losses) - MAX_STUDENTS} more", f"up to {losses[-1][1]:.4f}")
    facts = [f"queue {snapshot.queue} clips", f"checkpoint at update {int(values.get('published', 0)):,}"]
    facts += [f"scored {values['scored']}"] if "scored" in values else []
    facts += left_after_training(values)
    facts += [f"{values['quarantined']} clips replaced"] if values.get("quarantined") else []
    both = Table.grid(padding=(0, 4))
    both.add_row(stages, students)
    bar = Table.grid()  # by itself the bar does not end its line
    bar.add_row(ProgressBar(total=snapshot.total, completed=step, width=60))
    return Group(head, bar, both, _text("; ".join(facts)), *_places(snapshot), _memory(snapshot))


def left_after_training(values: Mapping[str, Any]) -> list[str]:
    """The work of the evaluators that has not ended yet."""
    kinds = {"backlog": "scoring tasks left", "drawings": "videos left to draw"}
    return [f"{values[key]} {words}" for key, words in kinds.items() if values.get(key)]


STARTING = "starting: actors load, the first clips are made and taught"


def _places(snapshot: ProgressSnapshot) -> list[Any]:
    """The processes of each role, and the roles that find no room."""
    living = "; ".join(snapshot.living.values())
    waits = f"waits: {snapshot.waits}" if snapshot.waits else ""
    return [_text(text, style) for text, style in ((living, ""), (waits, "bold")) if text]


def _text(text: str, style: str = "") -> Any:
    """Text that rich shows as it is: in a plain string it would read marks such as [red]."""
    from rich.text import Text

    return Text(escaped(redact(text)), style=style)


def _memory(snapshot: ProgressSnapshot) -> Any:
    return _text(f"memory {snapshot.memory_mb:,.0f} MB", "dim")
