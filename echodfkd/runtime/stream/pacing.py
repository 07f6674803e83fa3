"""The pace of the stream's scheduler and pools. A module of its own, because Ray Data imports it in every actor."""

from __future__ import annotations

import time
from typing import Any

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


class PatientPools(ExecutionCallback):
    """Keeps a pool's actors through a pause: only one that was idle for `IDLE_S` without a break gets smaller.

    Ray Data takes an idle actor away as soon as ten seconds have passed since it added one, and then another in each
    step: a stop of students for a checkpoint or a lost machine left one teacher of many, and half a minute went by for
    each to come back.
    """

    IDLE_S = 120.0

    def on_execution_step(self, executor: Any) -> None:
        """The time since a pool last grew, which Ray Data looks at, is made that since it was last in use."""
        idle = executor._data_context.autoscaling_config.actor_pool_util_downscaling_threshold
        for stage in executor._topology:
            for pool in stage.get_autoscaling_actor_pools():
                pool._debounce_period_s = self.IDLE_S
                if pool.get_pool_util() > idle:
                    pool._last_upscaled_at = time.time()
