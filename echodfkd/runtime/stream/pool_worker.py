"""Common to the actors of all pools: a name, threads, and the handling of a block that hangs or fails."""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from echodfkd.config.sections.pool import PoolConfig
from echodfkd.core.errors import EchoDFKDError
from echodfkd.runtime.cluster.connection import actor_name

if TYPE_CHECKING:
    from echodfkd.core.records import Block
    from echodfkd.teaching.clip_block import ClipBlock

WARM_UP_FACTOR = 4.0
"""An actor's first block may take so many times its pool's `timeout_s`."""

_ANSWER_S = 30.0
"""Longest wait for the progress actor, without which a pool starts small."""

_STDERR = 2
"""Descriptor of the worker's log."""


@dataclass(frozen=True)
class Stage:
    """One actor pool of the stream: its name, its class, the arguments of its constructor, the options of the pool, and
    the blocks that an actor works on at once, each in a thread.
    """

    name: str
    actor: type
    arguments: dict[str, Any]
    pool: PoolConfig
    concurrency: int = 1

    @property
    def named_actor(self) -> type:
        """The class under a name of its stage: the processes of a cluster are told from each other by it."""
        part = self.name.partition(".")[2]
        return type(f"{self.actor.__name__}.{part}", (self.actor,), {}) if part else self.actor


class CarriedPool(ActorPoolStrategy):
    """A pool that starts with as many actors as were at work when the stream before it ended.

    A stream that begins after a loss of students, or of a resumed run, asks for that number when it lays out its pools;
    a pool of Ray Data starts with its least number and grows by one actor in half a minute.

    Args:
        stage: its stage.
        progress_actor: knows the actors at work; None: it starts with the least number.
    """

    def __init__(self, stage: Stage, progress_actor: Any) -> None:
        self._stage, self._progress_actor = stage.name, progress_actor
        super().__init__(
            min_size=stage.pool.min_actors,
            max_size=stage.pool.max_actors,
            max_tasks_in_flight_per_actor=2 * stage.concurrency,
            max_concurrent_calls_per_actor=stage.concurrency,
            enable_true_multi_threading=stage.concurrency > 1,
        )

    @property
    def initial_size(self) -> int:
        """Actors to start with, between the least and the most of the pool."""
        if self._progress_actor is None or self.min_size == self.max_size:
            return int(self.min_size)
        try:
            found = ray.get(self._progress_actor.actors_at_work.remote(self._stage), timeout=_ANSWER_S)
        except ray.exceptions.RayError:
            return int(self.min_size)
        return int(min(max(found, self.min_size), self.max_size))

    @initial_size.setter
    def initial_size(self, unused: int) -> None:
        """Ray's constructor sets it."""


class PoolWorker:
    """Common to the actors of all pools: threads, a name, and the handling of a block that hangs or fails."""

    def __init__(self, pool: PoolConfig, stage: str, progress_actor: Any = None) -> None:
        if not pool.num_gpus:
            import torch

            torch.set_num_threads(max(1, round(pool.num_cpus)))
        self.stage = stage
        self.name = actor_name(stage)
        self.progress_actor = progress_actor
        self.timeout_s = pool.timeout_s
        self.deadline_s = WARM_UP_FACTOR * pool.timeout_s

    def run(
        self, columns: dict[str, np.ndarray], work: Callable[[ClipBlock], Block], *, watch: bool = True
    ) -> dict[str, np.ndarray]:
        """The block after this stage. ``watch``: False if the work itself enters `watched`.

        An explained error travels with the block, as every fault of the stream does: raised here, it would restart
        the workers again and again, to meet the same block.
        """
        from echodfkd.teaching.clip_block import ClipBlock

        with self.watched() if watch else contextlib.nullcontext():
            block = ClipBlock.from_columns(columns)
            try:
                done = work(block)
            except EchoDFKDError as error:
                done = work(replace(block, fault=str(error)))
        columns = done.to_columns()
        if self.progress_actor is not None:
            self.progress_actor.add_work.remote(self.stage, self.name, len(next(iter(columns.values()))))
        return columns

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """End this process if the body takes longer than its time; the first has longer than the others."""
        with _ends_in(self.deadline_s):
            yield
        self.deadline_s = self.timeout_s


@contextlib.contextmanager
def _ends_in(seconds: float) -> Iterator[None]:
    """End this process, with every thread's stack in its log, if the block takes longer (0: never).

    Ray Data then starts the actor again and gives its block to another. The watch is a thread in C that needs no
    interpreter lock, so that a kernel or a driver call that never returns cannot hold it up.
    """
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
