"""A run whose time is over publishes and stops, and is never ended by force."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from echodfkd.runtime.cluster.preemption import NOTICE, TIME_OVER, StopNotice, StopSignal


@pytest.fixture(autouse=True)
def no_end_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os._exit", lambda code: pytest.fail("ended by force"))


def progress_actor(asked: threading.Event) -> SimpleNamespace:
    return SimpleNamespace(stop=SimpleNamespace(remote=asked.set))


def publish_first() -> None:
    asked = threading.Event()
    with StopSignal(0.01, within_s=0.05) as stop:
        stop.training(progress_actor(asked))
        assert asked.wait(4)
        time.sleep(0.1)  # longer than the grace of a machine that is taken away
        stop.check()


def begin_late() -> None:
    with StopSignal(0.01, within_s=0.01) as stop:
        time.sleep(0.1)  # nothing is interrupted meanwhile
        stop.training(progress_actor(threading.Event()))


@pytest.mark.parametrize("run", [publish_first, begin_late])
def test_training_is_asked_to_publish_or_does_not_begin(run: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StopNotice, match=TIME_OVER):
        run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_that_ends_in_time_is_left_alone_and_a_signal_keeps_its_own_words() -> None:
    with StopSignal(10, within_s=0.1) as stop:
        stop.check()
    time.sleep(0.2)  # no notice comes late
    stop.check()
    with pytest.raises(StopNotice, match=NOTICE), StopSignal(3600, within_s=60):
        signal.raise_signal(signal.SIGTERM)
