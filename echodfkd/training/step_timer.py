"""How long a student keeps its worker busy in one update, measured without making the host wait for the device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


class StepTimer:
    """Adds up the pieces of work between `start` and `stop`.

    Waiting for other workers inside a piece (BatchNorm's exchange, the sum of gradients) counts as busy.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pieces: list[tuple[Any, Any]] = []
        self._begin: Any = None

    def start(self) -> None:
        """Begin a piece of work."""
        self._begin = self._mark()

    def stop(self) -> None:
        """End it."""
        self._pieces.append((self._begin, self._mark()))

    def take(self) -> Callable[[], float]:
        """Forget the pieces so far, and return a function that gives their seconds.

        On a GPU it waits until the work is done: call it one update later, when nothing is left to wait for.
        """
        pieces, self._pieces = self._pieces, []
        return lambda: sum(self._seconds(begin, end) for begin, end in pieces)

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # the device passes it when the work queued before it is done
        event.record()
        return event

    def _seconds(self, begin: Any, end: Any) -> float:
        if not self._on_gpu:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
