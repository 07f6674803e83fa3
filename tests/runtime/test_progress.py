"""The progress line: rates, queue and ETA out of the progress actor's numbers."""

import time
from collections.abc import Callable

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.runtime.progress import ProgressLine, memory_mb


@pytest.fixture
def line_of(tiny_config: Callable[..., RunConfig]) -> Callable[[dict[str, object]], str]:
    progress = ProgressLine.__new__(ProgressLine)  # without its thread
    progress.config = tiny_config()
    progress.started = time.time() - 20
    progress._last = (time.time() - 10, 0)
    return lambda values: progress.line(values, progress.pace(values))


def test_before_the_first_step_it_says_what_it_waits_for(line_of: Callable[[dict[str, object]], str]) -> None:
    assert "starting: actors load" in line_of({})


def test_rates_queue_and_eta_follow_from_the_numbers(line_of: Callable[[dict[str, object]], str]) -> None:
    """4 updates of 4 clips in 8 s after the first: 2 clips/s, 2 more updates in 4 s; 3 s old clips are 6 in queue."""
    values = {
        "step": 5,
        "first_step": 1,
        "first_step_time": time.time() - 8,
        "losses": {"a": 0.25},
        "source_clips_s": 40.0,
        "teacher_clips_s": 20.0,
        "age_s": 3.0,
        "wait_share": 0.05,
        "scored": "step 3",
    }
    line = line_of(values)
    assert "step 5/6 | 2.0 clips/s | loss a 0.2500" in line
    assert "one source can make 40, one teacher teach 20 clips/s | queue 6 clips" in line
    assert "students wait 5 % | scored step 3 | ETA 2 s" in line
    assert line_of({**values, "step": 1}).endswith("| ETA after the next step")


def test_many_students_share_a_line(tiny_config: Callable[..., RunConfig]) -> None:
    names = [f"c{number}" for number in range(6)]
    progress = ProgressLine.__new__(ProgressLine)
    progress.config = tiny_config(*(f"students.{name}.blocks=1" for name in names))  # beside the tiny run's own
    progress.started, progress._last = time.time(), (time.time(), 0)
    losses = {name: 0.5 - number / 10 for number, name in enumerate(names[:5])}
    values = {"step": 1, "first_step": 1, "losses": losses}
    line = progress.line(values, progress.pace(values))
    assert "loss c4 0.1000 .. c0 0.5000 (2 of 7 students have stopped)" in line


def test_memory_counts_this_process() -> None:
    assert memory_mb() > 10
