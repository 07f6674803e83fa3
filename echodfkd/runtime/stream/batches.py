"""The students' end of the stream: each rank's shard of a pass, and its micro-batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import ray
import ray.train
from ray.data import DataIterator, Dataset
from ray.train import DataConfig

from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch
from echodfkd.runtime.stream.plan import first_pass

T = TypeVar("T")


def pass_name(number: int) -> str:
    """Name of a pass among the datasets of the trainer."""
    return f"pass_{number:04d}"


class ComingPass(NamedTuple):
    """A pass that is built once students ask for it. It is not callable: Ray Train would call all at each start."""

    build: Callable[[], Dataset]


@dataclass(frozen=True)
class PassShard:
    """One rank's shard of a pass, in a type that Ray Train does not know (see `PassData`)."""

    shard: DataIterator


class PassData(DataConfig):
    """Ray Train's way of splitting datasets, except that a pass is built when it is used, and that its coordinator may
    end before the run.

    Ray Train keeps the coordinator of every dataset that was used, and asks each to shut down at the end of the run. It
    does so only for split iterators, hence `PassShard`.
    """

    def configure(self, datasets: dict[str, Any], *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """One dictionary per rank, of `PassShard`, for datasets that are a `ComingPass`."""
        built = {name: coming.build() for name, coming in datasets.items()}
        found = super().configure(built, *args, **kwargs)
        return [{name: PassShard(shard) for name, shard in shards.items()} for shards in found]


def stream_batches(config: RunConfig) -> Iterator[DistillationBatch]:
    """The micro-batches of one rank to the end of the plan.

    The first is requested now: the stream's coordinator and pools start while the caller builds its students.
    """
    return _without_old_passes(prefetch(_shards_and_batches(config), config.data.prefetch_batches))


def _shards_and_batches(config: RunConfig) -> Iterator[tuple[DataIterator, DistillationBatch]]:
    for number in range(first_pass(config), config.num_passes):
        shard = ray.train.get_dataset_shard(pass_name(number)).shard
        # Ray's own prefetching gives a batch only once it has the next: a whole block later
        for columns in shard.iter_batches(batch_size=config.micro_batch, batch_format="numpy", prefetch_batches=0):
            yield shard, DistillationBatch.from_columns(columns)


def _without_old_passes(taken: Iterator[tuple[DataIterator, DistillationBatch]]) -> Iterator[DistillationBatch]:
    """The batches without their shards. Ends the coordinators of passes that are over."""
    shards: list[DataIterator] = []
    for shard, batch in taken:
        if shard not in shards:
            shards.append(shard)
        if len(shards) > 2:  # the ranks average gradients in every step: none is two passes behind
            old = shards.pop(0)
            if ray.train.get_context().get_world_rank() == 0:
                ray.kill(old._coord_actor)
        yield batch


def prefetch(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, of which a thread requests ``count`` (at least 1) ahead of the consumer, the first at once.

    Each is yielded as soon as it is there. An error of the iterator is raised in place of the item.
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

    threading.Thread(target=ask, name="prefetch", daemon=True).start()
    return _taken(found, room)


def _taken(found: queue.SimpleQueue[Future[T]], room: threading.Semaphore) -> Iterator[T]:
    while True:
        try:
            item = found.get().result()
        except StopIteration:
            return
        room.release()
        yield item
