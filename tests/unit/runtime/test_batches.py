"""Micro-batches are asked for before anybody takes them, and given as soon as they are there."""

import threading
from collections.abc import Iterator

import pytest

from echodfkd.core.errors import RunError
from echodfkd.runtime.stream.batches import prefetch


class Numbers:
    """0, 1, 2: says which it was asked for, and makes none of them before it may."""

    def __init__(self, count: int = 3) -> None:
        self.asked: list[int] = []
        self.changed = threading.Condition()
        self.may = threading.Semaphore(0)
        self.count = count

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            with self.changed:
                self.asked.append(number)
                self.changed.notify_all()
            assert self.may.acquire(timeout=20)
            yield number

    def were_asked(self, numbers: list[int]) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.asked == numbers, timeout=20)


def test_the_first_is_asked_for_at_once_and_given_before_the_next_is_made() -> None:
    numbers = Numbers()
    taken = prefetch(iter(numbers), 1)
    assert numbers.were_asked([0])
    numbers.may.release()
    assert next(taken) == 0
    assert numbers.were_asked([0, 1])
    numbers.may.release(2)
    assert list(taken) == [1, 2]
    assert list(prefetch(iter(()), 1)) == []


@pytest.mark.parametrize("count", [1, 2])
def test_no_more_than_so_many_wait_to_be_taken(count: int) -> None:
    numbers = Numbers(6)
    numbers.may.release(6)
    taken = prefetch(iter(numbers), count)
    for number in range(4):
        assert numbers.were_asked(list(range(number + count)))
        assert next(taken) == number
    assert list(taken) == [4, 5]


def test_what_goes_wrong_is_raised_where_the_item_would_have_been() -> None:
    def fails() -> Iterator[int]:
        yield 0
        raise RunError("the stream broke off")

    taken = prefetch(fails(), 2)
    assert next(taken) == 0
    with pytest.raises(RunError, match=r"^the stream broke off$"):
        next(taken)
    assert list(taken) == []
