"""A distillation job in a process of its own, followed by the lines it prints."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from echodfkd.core.errors import STOPPED, RunError

DISTILL = str(Path(__file__).resolve().parents[2] / "jobs" / "distill.py")

WAIT_S = 600.0
"""Limit of each wait: a hundred times as long as the slowest step takes on an idle machine."""


class RunningJob:
    """One start of the job.

    Args:
        arguments: command line of the job. It must set ray.progress_s: the progress lines show how far the run is.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        root = str(Path(DISTILL).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, DISTILL, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.front = 0
        """Number of updates in the newest progress line."""
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def wait_until(self, reached: Callable[[], Any], what: str) -> float:
        """Wait for a condition or the end of the job. Returns the seconds waited.

        Raises:
            RunError: neither happened within WAIT_S.
        """
        began = time.monotonic()
        while not self.ended and not reached():
            if time.monotonic() - began > WAIT_S:
                raise RunError(f"the job waited {WAIT_S:g} s for {what}; it last said: {self.tail()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def time_of(self, signs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        """Wait for all conditions or the end of the job. Returns the time at which each was met (time.monotonic)."""
        seen: dict[str, float] = {}

        def look() -> bool:
            for name, sign in signs.items():
                if name not in seen and sign():
                    seen[name] = time.monotonic()
            return len(seen) == len(signs)

        self.wait_until(look, " and ".join(signs))
        return seen

    def wait_for_step(self, step: int) -> float:
        """Wait until so many updates are done, or the job ends."""
        return self.wait_until(lambda: self.front >= step, f"update {step}")

    def wait(self) -> int:
        """Wait for the end of the job. Returns the exit code."""
        self.wait_until(lambda: False, "its end")
        for reader in self._readers:
            reader.join()
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the driver process only."""
        self.process.send_signal(number)

    def result(self) -> dict[str, Any]:
        """The JSON object on the job's last line. Raises `RunError` with its last lines if there is none."""
        if self.wait() in (0, STOPPED) and self.lines and self.lines[-1].startswith("{"):
            return dict(json.loads(self.lines[-1]))
        raise RunError(f"the job ended with code {self.process.returncode}: {self.tail()}")

    def tail(self) -> str:
        """Its last lines."""
        return " / ".join([*self.lines[-1:], *self.errors[-3:]]) or "nothing"

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip())
            if found := re.search(r"\| update (\d+)/", line):
                self.front = max(self.front, int(found[1]))
