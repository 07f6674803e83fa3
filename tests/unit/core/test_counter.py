"""Progress of a long job: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from echodfkd.core import clock
from echodfkd.core.counter import Counter, clock_time


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at(second: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: second)


def test_a_line_comes_every_ten_seconds_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    at(1000, monkeypatch)
    with Counter("cases", 40, lines.append, done=10) as counter:
        for second, done in ((4, 10), (10, 10), (12, 11), (20, 15), (29, 20), (60, 40)):
            at(1000 + second, monkeypatch)
            counter.show(done, "in the north" if done == 15 else "")
    assert [line.split(" | ", 1)[1] for line in lines] == [
        "0:10 | cases 10/40 | ETA after the first",
        "0:20 | cases 15/40 | 0.25/s | in the north | ETA 1:40",  # the 10 of an earlier call count for no rate
        "1:00 | cases 40/40 | 0.5/s",
    ]


@pytest.mark.parametrize(("every_s", "seconds"), [(0.0, 100), (10.0, 3)])
def test_neither_a_short_job_nor_one_without_lines_says_anything(
    every_s: float, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    at(1000, monkeypatch)
    with Counter("cases", 2, lines.append, every_s=every_s) as counter:
        at(1000 + seconds, monkeypatch)
        counter.show(2)
    assert lines == []


def test_a_slow_rate_is_said_by_its_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    at(1000, monkeypatch)
    counter = Counter("runs", 3, print)
    at(1090, monkeypatch)
    assert counter.line(1).endswith("runs 1/3 | 90 s each | ETA 3:00")


def test_a_terminal_gets_a_bar_below_its_lines_and_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="needs rich (extra [live])")
    terminal = FakeTerminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    lines: list[str] = []

    def work() -> None:
        with Counter("videos", 4, lines.append) as counter:
            counter.show(3, "[red]a\x1b[31m")
            sys.stdout.write("a line of the job\n")
            raise ValueError("at fault")

    with pytest.raises(ValueError, match="at fault"):
        work()
    shown = terminal.getvalue()
    assert "videos" in shown
    assert "3/4" in shown
    assert "a line of the job\n" in shown
    assert "[red]a\\x1b[31m" in shown, "a name drives neither rich nor the terminal"
    assert shown.count("\x1b[?25h") == 1, "the cursor is shown again"
    assert sys.stdout is terminal
    assert lines == []


@pytest.mark.parametrize(("seconds", "shown"), [(5, "0:05"), (125, "2:05"), (3725, "1:02:05")])
def test_times(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown
