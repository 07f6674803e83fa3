"""Micro-batches are asked for before anybody takes them, and given as soon as they are there."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime import student_workers
from echodfkd.runtime.stream.batches import PassData, PassShard, prefetch
from echodfkd.runtime.stream.clip_stream import execution_options


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


class Stream:
    """A stand-in for a pass: no dataset, and a word for each shard."""

    def __init__(self, number: int) -> None:
        self.name, self.number, self.context = None, number, SimpleNamespace()

    def set_name(self, name: str) -> None:
        self.name = name

    def copy(self, other: Any) -> Any:
        return other

    def streaming_split(self, count: int, **unused: object) -> list[str]:
        return [f"pass {self.number}, shard {rank}" for rank in range(count)]


def test_of_all_passes_only_the_one_in_use_is_built(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []

    def build(config: RunConfig, number: int, *unused: object) -> Stream:
        built.append(number)
        return Stream(number)

    monkeypatch.setattr(student_workers, "build_stream", build)
    config = tiny_config("train.global_batch=16", f"train.steps={10**9 // 16}")
    trainer = student_workers.build_trainer(config, teacher_id="t", progress_actor=None, lease_epoch=1)
    assert len(trainer.datasets) == config.num_passes == 1250
    assert not any(map(callable, trainer.datasets.values())), "Ray Train calls those at each start of the group"
    assert built == []
    data = PassData(execution_options=execution_options(config), enable_shard_locality=False)
    wanted = {"pass_0007": trainer.datasets["pass_0007"]}
    shards = data.configure(wanted, world_size=2, worker_handles=None, worker_node_ids=["a", "b"])
    assert shards == [{"pass_0007": PassShard(f"pass 7, shard {rank}")} for rank in range(2)]
    assert built == [7]
