"""The time of a run does not follow a clock that is set."""

import time

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.training.progress import Progress


@pytest.mark.parametrize("jump_s", [3600.0, -86400.0])
def test_a_clock_that_is_set_moves_nothing(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    before = clock.now()
    assert abs(before - time.time()) < 60, "without a jump it is the time of day"
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + jump_s)
    assert 0 <= clock.now() - before < 60


def test_progress_is_told_on_after_a_jump_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    progress = Progress(RunConfig(), told.append)
    for step in (1, 2):
        progress.add_step(step, [], asked=clock.now(), started=clock.now(), losses={}, rate=0.1)
        progress.report(force=False)
        progress._sent -= 2  # two seconds later
        monkeypatch.setattr(time, "time", lambda: 0.0)
    assert [values["step"] for values in told] == [1, 2]
    assert 0 <= progress.wall_s < 60
