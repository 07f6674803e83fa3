"""The queue of a teacher's service: turns, cancelled jobs, and that each job is let go once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError

import pytest

from echodfkd.teaching.remote.fair_queue import FairQueue


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never held"
        time.sleep(0.002)


def test_jobs_have_their_turns_and_give_their_results_or_errors() -> None:
    queue: FairQueue[str] = FairQueue()
    start, order = threading.Event(), list[str]()

    def steps(name: str, count: int) -> Generator[None, None, str]:
        start.wait(20)
        for _ in range(count):
            order.append(name)
            yield
        if name == "c":
            raise ValueError("its own")
        return name

    free: list[str] = []
    futures = {name: queue.submit(steps(name, count), lambda name=name: free.append(name))  # type: ignore[misc]
               for name, count in (("a", 3), ("b", 1), ("c", 2))}  # fmt: skip
    start.set()
    assert (futures["a"].result(20), futures["b"].result(20)) == ("a", "b")
    with pytest.raises(ValueError, match="its own"):
        futures["c"].result(20)
    assert order == ["a", "b", "c", "a", "c", "a"]
    assert sorted(free) == ["a", "b", "c"]


def test_each_of_many_jobs_that_are_cancelled_at_any_time_is_let_go_once() -> None:
    rng, queue = random.Random(0), FairQueue[int]()
    free: Counter[int] = Counter()
    done: Counter[int] = Counter()
    lock = threading.Lock()

    def let_go(number: int) -> None:
        with lock:
            free[number] += 1

    def steps(number: int, count: int) -> Generator[None, None, int]:
        for _ in range(count):
            time.sleep(0.0002)
            yield
        done[number] += 1
        return number

    futures = []
    for number in range(400):
        futures.append(queue.submit(steps(number, rng.randrange(4)), lambda number=number: let_go(number)))  # type: ignore[misc]
        if rng.random() < 0.5:
            futures[rng.randrange(len(futures))].cancel()
        if rng.random() < 0.1:
            time.sleep(0.001)
    until(lambda: all(future.done() for future in futures) and len(free) == 400)
    assert set(free.values()) == {1}
    kept = [number for number, future in enumerate(futures) if not future.cancelled()]
    assert 50 < len(kept) < 400
    assert [futures[number].result() for number in kept] == kept
    assert set(kept) <= set(done)
    with pytest.raises(CancelledError):
        next(future for future in futures if future.cancelled()).result()
