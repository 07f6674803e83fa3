"""The students' end of the stream: which part of a leg a rank gets, and the micro-batches in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.data import DataIterator
from ray.train import DataConfig

from echodfkd.config import RunConfig
from echodfkd.records import DistillationBatch


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
    """The micro-batches of one rank, from the leg that holds ``first_step`` to the end of the plan."""
    shards: list[DataIterator] = []
    for leg in range(first_step // config.leg_steps, config.num_legs):
        shard = ray.train.get_dataset_shard(leg_name(leg)).shard
        shards.append(shard)
        if len(shards) > 2:  # whoever ends a leg has averaged its gradients with all ranks: none is two legs behind
            old = shards.pop(0)
            if ray.train.get_context().get_world_rank() == 0:
                ray.kill(old._coord_actor)
        for columns in shard.iter_batches(
            batch_size=config.micro_batch,
            batch_format="numpy",
            prefetch_batches=config.data.prefetch_batches,
        ):
            yield DistillationBatch.from_columns(columns)


def started(batches: Iterator[DistillationBatch]) -> Iterator[DistillationBatch]:
    """The same micro-batches, the first of which a thread asks for at once.

    The stream begins with the first question: its coordinator and its pools start while this process builds students.
    """
    first: Future[DistillationBatch | None] = Future()

    def ask() -> None:
        try:
            first.set_result(next(batches, None))
        except BaseException as error:
            first.set_exception(error)

    threading.Thread(target=ask, name="first batch", daemon=True).start()

    def all_of_them() -> Iterator[DistillationBatch]:
        batch = first.result()
        if batch is not None:
            yield batch
            yield from batches

    return all_of_them()
