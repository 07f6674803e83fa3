"""Common to the actors of all pools: a name, threads, and the handling of a block that hangs or fails."""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from echodfkd.config.sections.pool import PoolConfig
from echodfkd.core.errors import EchoDFKDError
from echodfkd.runtime.cluster.connection import actor_name

if TYPE_CHECKING:
    from echodfkd.core.records import Block
    from echodfkd.teaching.clip_block import ClipBlock

WARM_UP_FACTOR = 4.0
"""An actor's first block may take so many times its pool's `timeout_s`."""

_STDERR = 2
"""Descriptor of the worker's log."""


@dataclass(frozen=True)
class Stage:
    """One actor pool of the stream: its class, the arguments of its constructor, the options of the pool, and the
    blocks that an actor works on at once, each in a thread.
    """

    actor: type
    arguments: dict[str, Any]
    pool: PoolConfig
    concurrency: int = 1


class PoolWorker:
    """Common to the actors of all pools: threads, a name, and the handling of a block that hangs or fails."""

    def __init__(self, pool: PoolConfig, stage: str, progress_actor: Any = None) -> None:
        if not pool.num_gpus:
            import torch

            torch.set_num_threads(max(1, round(pool.num_cpus)))
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
            self.progress_actor.add_taught.remote(len(next(iter(columns.values()))))
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
