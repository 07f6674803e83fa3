"""The first micro-batch is asked for before anybody takes it."""

import threading
from collections.abc import Iterator

import pytest

from echodfkd.errors import RunError
from echodfkd.runtime.leg_shards import started


def test_the_first_batch_is_asked_for_at_once_and_the_others_when_they_are_taken() -> None:
    asked = threading.Event()
    given: list[int] = []

    def numbers() -> Iterator[int]:
        asked.set()
        for number in range(3):
            given.append(number)
            yield number

    batches = started(numbers())
    assert asked.wait(10)
    assert next(batches) == 0
    assert given == [0]
    assert list(batches) == [1, 2]
    assert list(started(iter(()))) == []


def test_what_goes_wrong_before_the_first_batch_is_raised_where_it_is_taken() -> None:
    def fails() -> Iterator[int]:
        raise RunError("the stream cannot begin")
        yield 0

    batches = started(fails())
    with pytest.raises(RunError, match="the stream cannot begin"):
        next(batches)
