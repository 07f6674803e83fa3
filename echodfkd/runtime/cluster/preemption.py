"""Notices that a machine will be taken away.

SIGTERM at the driver: the run publishes a checkpoint and ends in time.

While students train, the workers are asked to publish after their next update and to stop. In any other phase
there is nothing to publish, and the run ends at once. In any case the process ends within `train.stop_grace_s`.
A run whose own time is over publishes and ends likewise, but takes its time: it is asked between two updates, or before
its first, and scores that are being made are finished.

The drain of a node with students (`ray drain-node`, the autoscaler, the end of a pod): the run publishes a checkpoint
at its next update and goes on. Ray Train starts the students elsewhere when the node is gone.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray._private import state as ray_state
from ray.exceptions import RayError

from echodfkd.core import clock
from echodfkd.core.errors import STOPPED
from echodfkd.core.terminal import print_line

NOTICE = "stopped by SIGTERM; the same command resumes it"
TIME_OVER = "stopped, because its time is over; the same command resumes it"
LOOK_S = 2.0
"""Seconds between two looks for the drain of a node."""


class StopNotice(BaseException):
    """The run ends early on request. A BaseException like KeyboardInterrupt: no `except Exception` may swallow it."""


class StopSignal:
    """Handles the driver's SIGTERM during a ``with`` block in the main thread; in other threads it does nothing.

    Args:
        grace_s: the process ends within this time of the signal, by force if it has to.
        within_s: after so many seconds training is stopped.
    """

    def __init__(self, grace_s: float, within_s: float = math.inf) -> None:
        self._grace_s = grace_s
        self._notice = ""
        self._timer = None if math.isinf(within_s) else threading.Timer(max(0.0, within_s), self._on_time)
        self._ask_workers: Callable[[], Any] | None = None
        self._before: Any = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM)
        self.listen()
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *unused: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ask_workers = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def listen(self) -> None:
        """Install the handler; called again after ray.init, which installs its own."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_signal)

    def training(self, progress_actor: Any) -> None:
        """Training starts: from now on a notice is passed to the workers through the progress actor.

        Raises `StopNotice` if the time is over already.
        """
        self._ask_workers = progress_actor.stop.remote
        if self._notice:
            raise StopNotice(self._notice)

    def check(self) -> None:
        """Raise `StopNotice` if the workers have ended because of a notice."""
        self._ask_workers = None
        if self._notice:
            raise StopNotice(self._notice)

    def _on_time(self) -> None:
        """In the timer's thread."""
        self._notice = self._notice or TIME_OVER
        if ask_workers := self._ask_workers:
            ask_workers()

    def _on_signal(self, *unused: object) -> None:
        if self._notice == NOTICE:
            return
        self._notice = NOTICE
        threading.Thread(target=self._act, args=(self._ask_workers,), name="stop", daemon=True).start()
        if self._ask_workers is None:
            raise StopNotice(self._notice)

    def _act(self, ask_workers: Callable[[], Any] | None) -> None:
        if ask_workers is not None:
            ask_workers()
        time.sleep(self._grace_s)
        print_line(
            f"error: SIGTERM: the run did not end within {self._grace_s:g} s (train.stop_grace_s); the same command"
            " resumes it from the last published checkpoint",
            to=sys.stderr,
        )
        os._exit(STOPPED)


class StopWatch:
    """A worker's view of the notice: one call waits at the progress actor, and each step polls its answer."""

    def __init__(self, progress_actor: Any) -> None:
        self._answer = progress_actor.wait_for_stop.remote()

    def __call__(self) -> bool:
        """Whether to publish and stop after this update; False if the progress actor is gone."""
        try:
            return bool(ray.wait([self._answer], timeout=0)[0]) and bool(ray.get(self._answer))
        except RayError:
            return False


class DrainWatch:
    """A worker's view of its node: each step asks whether it is being drained, and is told so once."""

    def __init__(self) -> None:
        self._node = ray.get_runtime_context().get_node_id()
        self._said, self._look_at = False, 0.0

    def __call__(self) -> bool:
        """Whether to publish after this update; False if the cluster cannot be asked at the moment."""
        if self._said or clock.now() < self._look_at:
            return False
        self._look_at = clock.now() + LOOK_S
        try:
            self._said = self._node in ray_state.state.get_draining_nodes()
        except RayError:
            return False
        return self._said
