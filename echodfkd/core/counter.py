"""Progress of a long job: a bar on a terminal that has rich (extra `[live]`), a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from echodfkd.core import clock
from echodfkd.core.terminal import escaped

EVERY_S = 10.0


class Counter:
    """Counts the done ones of a total, in a ``with`` block that does the work.

    Args:
        unit: the counted things, e.g. cases.
        total: how many there are.
        say: takes a line: the job's `print_line`.
        done: those that an earlier call of the job has done; they count for no rate.
        every_s: seconds between two lines; 0 shows neither lines nor a bar.
    """

    def __init__(
        self, unit: str, total: int, say: Callable[[str], None], *, done: int = 0, every_s: float = EVERY_S
    ) -> None:
        self._unit, self._total, self._say, self._before, self._every_s = unit, total, say, done, every_s
        self._started = self._shown = clock.now()
        self._bar = _bar(unit, total, done) if every_s else None

    def __enter__(self) -> Counter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, note: str = "") -> None:
        """So many are done; ``note`` is said beside it. The last one gets a line if it took more than `EVERY_S`."""
        now = clock.now()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=escaped(note))
        due = now - self._shown if self._bar is None else 0.0
        last = done >= self._total and now - self._started >= self._every_s
        if self._every_s and (last or due >= self._every_s):
            self._shown = now
            self._say(self.line(done, note))

    def line(self, done: int, note: str = "") -> str:
        """The time of day, the time so far, the count, its rate, and the time to the end at this rate."""
        elapsed = clock.now() - self._started
        rate = self._rate(done)
        parts = [time_of_day(), clock_time(elapsed), f"{self._unit} {done}/{self._total}"]
        if rate:
            parts.append(f"{rate:.3g}/s" if rate >= 0.1 else f"{1 / rate:.3g} s each")
        parts += [note] if note else []
        if done < self._total:
            parts.append(f"ETA {self.eta(done)}")
        return " | ".join(parts)

    def eta(self, done: int) -> str:
        """The time to the end at the rate so far."""
        rate = self._rate(done)
        return clock_time((self._total - done) / rate) if rate else "after the first"

    def _rate(self, done: int) -> float:
        return (done - self._before) / max(clock.now() - self._started, 1e-9)


def on_terminal(stream: Any) -> bool:
    """Whether rich can draw on the stream: it is a terminal, and rich is installed."""
    if not stream.isatty():
        return False
    try:
        import rich  # noqa: F401
    except ImportError:
        return False
    return True


def _bar(unit: str, total: int, done: int) -> Any:
    """A bar of rich, not yet shown; None if standard output is no terminal, or rich is not installed."""
    if not on_terminal(sys.stdout):
        return None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Left

    plain = [TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[note]")]
    columns = (plain[0], BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), Left(), plain[1])
    bar = Progress(*columns, console=Console(file=sys.stdout), transient=True, refresh_per_second=2)
    bar.add_task(escaped(unit), total=total, completed=done, note="")
    return bar


def time_of_day() -> str:
    """The wall clock's time, e.g. 14:03:20."""
    return time.strftime("%H:%M:%S")


def clock_time(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
