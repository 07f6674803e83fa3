"""A rest for the stream's scheduler. A module of its own, because Ray Data imports it in every actor."""

from __future__ import annotations

import time

from ray.data._internal.execution.execution_callback import ExecutionCallback


class PacedScheduling(ExecutionCallback):
    """Makes the stream's scheduler rest between steps.

    While students are the slower side, a finished block waits behind back-pressure. Ray Data's scheduler finds it ready
    in every step and steps again at once, which took three quarters of a core from the students on a small machine. A
    rest of 20 ms bounds that; a step that took longer was busy with many tasks and is not delayed.
    """

    REST_S = 0.02

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def on_execution_step(self, executor: object) -> None:
        """Sleep for the rest of REST_S since the last step."""
        rest = self.REST_S - (time.perf_counter() - self._last)
        if rest > 0:
            time.sleep(rest)
        self._last = time.perf_counter()
