"""The students' end of the stream: each rank's shard, and its micro-batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TypeVar

import ray.train

from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch

T = TypeVar("T")

STREAM = "stream"
"""Name of the trainer's dataset."""


def stream_batches(config: RunConfig) -> Iterator[DistillationBatch]:
    """The micro-batches of one rank to the end of the plan.

    The first is requested now: the stream's coordinator and pools start while the caller builds its students.
    """
    return prefetch(_batches(config), config.data.prefetch_batches)


def _batches(config: RunConfig) -> Iterator[DistillationBatch]:
    shard = ray.train.get_dataset_shard(STREAM)
    # Ray's own prefetching gives a batch only once it has the next: a whole block later
    for columns in shard.iter_batches(batch_size=config.micro_batch, batch_format="numpy", prefetch_batches=0):
        yield DistillationBatch.from_columns(columns)


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
