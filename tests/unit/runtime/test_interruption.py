"""The first word after a signal comes while the main thread is still inside a library."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from echodfkd.runtime.command import run_guarded


@pytest.fixture(params=["SIGINT", "SIGTERM"])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    number = signal.Signals[request.param]
    before = signal.getsignal(number)
    yield number
    signal.signal(number, before)


def test_a_signal_is_answered_before_its_handler_runs(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    word = {"SIGINT": "interrupted", "SIGTERM": "SIGTERM"}[number.name]
    printed: list[str] = []
    signal.signal(number, lambda *_: printed.append(capsys.readouterr().err))

    def work() -> dict[str, object]:
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)  # no handler can run during it
        return {"ok": True}

    assert run_guarded(work) == 0
    assert "".join(printed) == f"{word}: stopping, which can take some seconds\n", "once"
    assert signal.set_wakeup_fd(-1) == -1, "left as it was"


@pytest.mark.parametrize("number", ["SIGINT"], indirect=True)
def test_the_jobs_own_sentence_comes_last(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    signal.signal(number, signal.default_int_handler)  # shells start background jobs with it ignored

    def work() -> dict[str, object]:
        signal.raise_signal(signal.SIGINT)
        return {}

    assert run_guarded(work) == 130
    assert capsys.readouterr().err.splitlines() == [
        "interrupted: stopping, which can take some seconds",
        "interrupted; the same command goes on from all that was saved",
    ]


def test_a_thread_has_no_signals_to_listen_to() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_guarded(lambda: {"ok": True})))
    thread.start()
    thread.join()
    assert codes == [0]
