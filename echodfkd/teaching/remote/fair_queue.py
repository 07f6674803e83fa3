"""One thread that works on several requests in turn, a step of each: a long one delays the others by its steps only."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")


@dataclass(eq=False)
class _Job(Generic[_T]):
    steps: Generator[None, None, _T]
    future: Future[_T]
    let_go: Callable[[], None]


class FairQueue(Generic[_T]):
    """Works on jobs, each a generator that pauses after each of its steps and returns its result."""

    def __init__(self) -> None:
        self._waiting: deque[_Job[_T]] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="fair-queue", daemon=True).start()

    def submit(self, steps: Generator[None, None, _T], let_go: Callable[[], None]) -> Future[_T]:
        """Work on a job after those that wait already.

        Args:
            steps: of the job.
            let_go: called once, from any thread, when nothing of the job is held here any more: it is done, has failed,
                or its future was cancelled and no step of it is under way.

        Returns:
            Its result. A cancelled job is dropped before its next step.
        """
        job = _Job(steps, Future(), let_go)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._drop(job))
        return job.future

    def _drop(self, job: _Job[_T]) -> None:
        """Take a cancelled job out of those that wait. One under way is let go when its step ends."""
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        _end(job)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                job = self._waiting.popleft()
            tell = _step(job)
            if tell is not None or job.future.cancelled():
                _end(job)
                if tell is not None:
                    with suppress(InvalidStateError):  # it was cancelled: nobody wants to be told
                        tell()
            else:
                with self._changed:
                    self._waiting.append(job)
                if job.future.cancelled():  # between its step and its return to the others
                    self._drop(job)
            del job, tell  # the next job may be long in coming


def _step(job: _Job[_T]) -> Callable[[], None] | None:
    """Make one step of a job. Returns what tells its result, if that was the last."""
    try:
        next(job.steps)
    except StopIteration as end:
        return functools.partial(job.future.set_result, end.value)
    except Exception as error:
        return functools.partial(job.future.set_exception, error)
    return None


def _end(job: _Job[_T]) -> None:
    job.steps.close()  # frees its arrays
    job.let_go()
