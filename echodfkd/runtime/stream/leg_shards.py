"""The students' end of the stream: which part of a leg a rank gets, and the micro-batches in it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.train
from ray.data import DataIterator
from ray.train import DataConfig

from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch

T = TypeVar("T")


def leg_name(leg: int) -> str:
    """Name of a leg's dataset among those of the trainer."""
    return f"leg_{leg:03d}"


@dataclass(frozen=True)
class LegShard:
    """One rank's part of a leg. Ray Train knows how to find it, but not what it is (see `LegData`)."""

    shard: DataIterator


class LegData(DataConfig):
    """Ray Train's way of splitting datasets, but that a leg's coordinator may end before the run does.

    Ray Train keeps the coordinator of every dataset that was ever asked for, a process with the books of all its
    tasks, and asks each to shut down at the end. It leaves alone what is not a split iterator.
    """

    def configure(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """One dictionary per rank, of `LegShard`."""
        found = super().configure(*args, **kwargs)
        return [{name: LegShard(shard) for name, shard in shards.items()} for shards in found]


def stream_batches(config: RunConfig, first_step: int) -> Iterator[DistillationBatch]:
    """The micro-batches of one rank, from the leg that holds ``first_step`` to the end of the plan.

    The first is asked for now: the stream's coordinator and pools start while the caller builds its students.
    """
    return _without_old_legs(ahead(_shards_and_batches(config, first_step), config.data.prefetch_batches))


def _shards_and_batches(config: RunConfig, first_step: int) -> Iterator[tuple[DataIterator, DistillationBatch]]:
    for leg in range(first_step // config.leg_steps, config.num_legs):
        shard = ray.train.get_dataset_shard(leg_name(leg)).shard
        # Ray's own prefetching gives a batch only once it has the next: a whole block later
        for columns in shard.iter_batches(batch_size=config.micro_batch, batch_format="numpy", prefetch_batches=0):
            yield shard, DistillationBatch.from_columns(columns)


def _without_old_legs(taken: Iterator[tuple[DataIterator, DistillationBatch]]) -> Iterator[DistillationBatch]:
    """The batches alone. Ends the coordinators of legs that are over."""
    shards: list[DataIterator] = []
    for shard, batch in taken:
        if shard not in shards:
            shards.append(shard)
        if len(shards) > 2:  # whoever ends a leg has averaged its gradients with all ranks: none is two legs behind
            old = shards.pop(0)
            if ray.train.get_context().get_world_rank() == 0:
                ray.kill(old._coord_actor)
        yield batch


def ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, of which a thread asks for ``count`` (at least 1) before they are taken, the first at once.

    Each is given as soon as it is there. What asking raises is raised where the item would have been.
    """
    room = threading.Semaphore(count)
    found: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()

    def ask() -> None:
        answer: Future[T]
        while True:
            room.acquire()
            answer = Future()
            try:
                answer.set_result(next(items))
            except BaseException as error:
                answer.set_exception(error)
            found.put(answer)
            if answer.exception() is not None:
                return

    threading.Thread(target=ask, name="ahead", daemon=True).start()
    return _taken(found, room)


def _taken(found: queue.SimpleQueue[Future[T]], room: threading.Semaphore) -> Iterator[T]:
    while True:
        try:
            item = found.get().result()
        except StopIteration:
            return
        room.release()
        yield item
