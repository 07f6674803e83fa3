"""One generator shared by the threads of a process: clips of several callers pass the device in common batches."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from echodfkd.core import clock
from echodfkd.core.errors import ClipError
from echodfkd.models.generators.protocol import ClipRequest, Generator


@dataclass
class Made:
    """One clip that was asked for, once it is made: the clip or its error, and its share of the device's time.

    The time of a device batch is divided evenly among its clips, so that the shares of all clips add up to it.
    """

    request: ClipRequest
    clip: np.ndarray | ClipError | None = None
    start: float = 0.0
    end: float = 0.0
    failure: Exception | None = None

    @property
    def shape(self) -> tuple[int, float, int]:
        """Clips of one batch are alike in these."""
        return self.request.frames, self.request.fps, self.request.size

    @property
    def done(self) -> bool:
        """Whether its batch has left the device."""
        return self.clip is not None or self.failure is not None


class BatchedGenerator:
    """A `Generator` for several threads.

    While one thread's batch is on the device, the requests of the others gather for the next: a batch holds the clips
    of several blocks, or a part of one. No thread waits for a batch to fill.

    Args:
        generator: called by one thread at a time.
        batch: most clips in one call.
    """

    def __init__(self, generator: Generator, batch: int) -> None:
        self.notes = generator.notes
        self.wants_label_map = generator.wants_label_map
        self.watch: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        """Entered around each call of the generator."""
        self._generator = generator
        self._batch = batch
        self._waiting: deque[Made] = deque()
        self._queue = threading.Lock()
        self._device = threading.Lock()

    def generate(self, requests: Sequence[ClipRequest]) -> list[np.ndarray | ClipError]:
        """See `Generator.generate`. A clip that cannot be right (`fault_of`) is an error."""
        found = []
        for one in self.make(requests):
            assert one.clip is not None
            found.append(one.clip)
        return found

    def make(self, requests: Sequence[ClipRequest]) -> list[Made]:
        """The clips with the time that they took. Raises whatever the generator raises for a whole batch."""
        asked = [Made(request) for request in requests]
        with self._queue:
            self._waiting.extend(asked)
        while not all(one.done for one in asked):
            with self._device:
                if not all(one.done for one in asked):
                    self._run(self._next_batch())
        for one in asked:
            if one.failure is not None:
                raise one.failure
        return asked

    def _next_batch(self) -> list[Made]:
        """The clips that have waited longest and are alike."""
        with self._queue:
            first = self._waiting[0].shape
            alike = itertools.takewhile(lambda one: one.shape == first, itertools.islice(self._waiting, self._batch))
            return [self._waiting.popleft() for _ in range(len(list(alike)))]

    def _run(self, batch: list[Made]) -> None:
        start = clock.now()
        try:
            with self.watch():
                clips = self._generator.generate([one.request for one in batch])
            assert len(clips) == len(batch), f"{len(batch)} clips asked for, {len(clips)} made"
        except Exception as error:
            for one in batch:
                one.failure = error
            return
        share = (clock.now() - start) / len(batch)
        for place, (one, clip) in enumerate(zip(batch, clips, strict=True)):
            one.start, one.end = start + place * share, start + (place + 1) * share
            fault = "" if isinstance(clip, ClipError) else fault_of(clip, one.request)
            one.clip = ClipError(fault) if fault else clip


def fault_of(clip: np.ndarray, request: ClipRequest) -> str:
    """Why a generator's output cannot be the clip that was asked for; "" if it can."""
    wanted = (request.frames, request.size, request.size)
    if clip.shape != wanted:
        return f"the generator gave a clip of shape {clip.shape}, asked for was {wanted}"
    if clip.dtype != np.uint8:
        if np.issubdtype(clip.dtype, np.floating) and not np.isfinite(clip).all():
            return "the generator gave pixels that are not finite"
        return f"the generator gave pixels of type {clip.dtype}, grey levels are uint8"
    return f"the generator gave a clip of one grey level, {clip.flat[0]}" if clip.min() == clip.max() else ""
