"""A run whose time is over stops as by SIGTERM, in the main thread, and is never ended by force."""

from __future__ import annotations

import signal
import threading
import time
from types import SimpleNamespace

import pytest

from echodfkd.runtime.cluster.preemption import NOTICE, TIME_OVER, StopNotice, StopSignal


@pytest.fixture(autouse=True)
def no_end_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os._exit", lambda code: pytest.fail("ended by force"))


def wait() -> None:
    time.sleep(5)


def test_the_time_ends_a_run_that_has_nothing_to_publish() -> None:
    before = signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    with pytest.raises(StopNotice, match=TIME_OVER), StopSignal(0.01, within_s=0.05):
        wait()
    assert time.monotonic() - start < 4
    assert signal.getsignal(signal.SIGTERM) is before


def publish_first() -> None:
    asked = threading.Event()
    with StopSignal(0.01, within_s=0.05) as stop:
        stop.training(SimpleNamespace(stop=SimpleNamespace(remote=asked.set)))
        assert asked.wait(4)
        time.sleep(0.1)  # longer than the grace of a machine that is taken away
        stop.check()


def test_training_workers_are_asked_to_publish_first() -> None:
    with pytest.raises(StopNotice, match=TIME_OVER):
        publish_first()


def test_a_run_that_ends_in_time_is_left_alone_and_a_signal_keeps_its_own_words() -> None:
    with StopSignal(10, within_s=0.1) as stop:
        stop.check()
    time.sleep(0.2)  # no signal comes late
    with pytest.raises(StopNotice, match=NOTICE), StopSignal(3600, within_s=60):
        signal.raise_signal(signal.SIGTERM)
