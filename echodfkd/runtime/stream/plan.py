"""The stream's plan: read tasks of the run's slots, each made shortly before it runs.

Ray Data lists every read task of a dataset before the first one runs, and a dataset that ends takes its actor pools
with it. So a pass, tens of thousands of tasks, is one dataset that begins with one empty task (`ClipDatasource`), and
as its execution starts, `OpenPlan` puts `ComingTasks` in the place of that list. A new pass, with a new coordinator
and new pools, bounds the memory of a coordinator, in which Ray keeps some kilobytes of every block.

Ray unpickles the plan in several processes that make neither clips nor masks, so torch is not imported here.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import ray
from ray.data import Datasource, ReadTask
from ray.data._internal.execution.bundle_queue import ReorderingBundleQueue
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import BlockEntry, RefBundle
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data._internal.execution.operators.map_operator import MapOperator
from ray.data.block import Block, BlockAccessor, BlockMetadata

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.runtime.cluster.connection import actor_name
from echodfkd.runtime.stream.builders import drafting_source, slot_rules
from echodfkd.storage.files import RunStorage
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.manifests import latest_checkpoint, read_consumed

LOOK_S = 0.5
"""Seconds between two looks for the checkpoint that holds the next law."""


def remaining_slots(config: RunConfig) -> Intervals:
    """Slots of the plan that no published checkpoint has consumed."""
    storage = RunStorage(config.root)
    newest = latest_checkpoint(storage)
    consumed = read_consumed(storage, newest) if newest else Intervals()
    return consumed.complement(config.plan_slots)


def slots_of_pass(config: RunConfig, number: int) -> Intervals:
    """Those of `remaining_slots` that lie in a pass."""
    size = config.pass_steps * config.train.global_batch
    start, stop = number * size, min((number + 1) * size, config.plan_slots)
    return Intervals.merge([(max(low, start), min(high, stop)) for low, high in remaining_slots(config).ranges])


def first_pass(config: RunConfig) -> int:
    """The pass that holds the first of `remaining_slots`; `num_passes` if none remain."""
    ranges = remaining_slots(config).ranges
    return ranges[0][0] // config.train.global_batch // config.pass_steps if ranges else config.num_passes


def blocks_of(config: RunConfig, slots: Intervals) -> Iterator[list[int]]:
    """These slots in order, cut into micro-batches."""
    left = iter(slots)
    while block := list(itertools.islice(left, config.micro_batch)):
        yield block


class ClipDatasource(Datasource):
    """One task without a clip, for Ray Data to plan the stages after it."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.config = config

    def get_name(self) -> str:
        """Name of the stage in Ray's statistics."""
        return "Clips"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of the clips of one block."""
        return self.config.micro_batch * _clip_bytes(self.config)

    def get_read_tasks(self, parallelism: int, *unused: object, **also_unused: object) -> list[ReadTask]:
        """That task, which never runs."""
        return [read_task(self.config, None, [])]


def read_task(config: RunConfig, held: Any, slots: list[int]) -> ReadTask:
    """The task that makes the clips of these slots as one block. ``held`` is the reference of the config: with it a
    task takes less than a kilobyte.
    """
    metadata = BlockMetadata(
        num_rows=len(slots), size_bytes=len(slots) * _clip_bytes(config), input_files=None, exec_stats=None
    )
    return ReadTask(functools.partial(_read_block, held, slots), metadata)


def _clip_bytes(config: RunConfig) -> int:
    window, seen = config.window, config.seen_window.size if config.teacher.sees.is_on else 0
    return window.frames * (window.size**2 + seen**2) + 256


def _read_block(held: Any, slots: list[int]) -> Iterable[Block]:
    from echodfkd.teaching.blocks import make_block

    config = ray.get(held)
    block = make_block(drafting_source(config), slots, slot_rules(config), actor=actor_name("source"))
    return [block_of(block.to_columns())]


def block_of(columns: dict[str, np.ndarray]) -> Block:
    """Columns as an Arrow block."""
    return BlockAccessor.batch_to_block(columns)


class ComingTasks:
    """The read tasks of the rest of the plan, as Ray Data's input takes them: in order, by number, each one once.

    Its length is the number that may be taken by now: those given, and so many more that `ahead` wait for a source.

    Args:
        config: the run.
        slots: those to be trained.
        waiting: the number of given tasks that wait for a source.
    """

    def __init__(self, config: RunConfig, slots: Intervals, waiting: Callable[[], int]) -> None:
        self._config, self._held, self._waiting = config, ray.put(config), waiting
        self._blocks = blocks_of(config, slots)
        self._next = next(self._blocks, None)
        self._may_draw = DrawnSlots(config)
        self._given = 0
        self.ahead = 2 * config.data.source_tasks + 8
        # Ray can make a lost block again as long as its task is referenced here
        self._kept: deque[RefBundle] = deque(maxlen=config.kept_tasks)

    @property
    def is_over(self) -> bool:
        """Whether all have been given."""
        return self._next is None

    def __len__(self) -> int:
        if self._next is None or not self._may_draw(self._next[-1]):
            return self._given
        return self._given + max(0, self.ahead - self._waiting())

    def __getitem__(self, number: int) -> RefBundle:
        assert self._next is not None, "no more than the length is asked for"
        assert number == self._given, "Ray Data takes its input in order"
        task = ray.put(read_task(self._config, self._held, self._next))
        metadata = BlockMetadata(num_rows=1, size_bytes=0, input_files=None, exec_stats=None)
        bundle = RefBundle((BlockEntry(task, metadata),), owns_blocks=False, schema=None)
        self._next = next(self._blocks, None)
        self._given += 1
        self._kept.append(bundle)
        return bundle


class DrawnSlots:
    """Whether a slot may be drawn: of a steered run once a checkpoint holds the law of its segment."""

    def __init__(self, config: RunConfig) -> None:
        self._steers = bool(config.source.steering.strata)
        self._batch, self._period = config.train.global_batch, config.segment_steps
        self._every = config.train.checkpoint_every
        self._storage = RunStorage(config.root)
        self._published, self._look_at = 0, 0.0

    def __call__(self, slot: int) -> bool:
        """A law is made one checkpoint before its segment (`Timetable`); the first come without one."""
        if not self._steers:
            return True
        wanted = slot // self._batch // self._period * self._period - self._every
        if wanted > self._published and clock.now() >= self._look_at:
            newest = latest_checkpoint(self._storage)
            self._published, self._look_at = newest.step if newest else 0, clock.now() + LOOK_S
        return wanted <= self._published


class OpenPlan(ExecutionCallback):
    """Puts a pass of the plan in the place of Ray Data's list of read tasks, and empties records that grow with it."""

    def __init__(self, config: RunConfig, number: int) -> None:
        self._config, self._number = config, number

    def before_execution_starts(self, executor: Any) -> None:
        """Called by Ray Data once the stages are laid out, before their first step."""
        source, state = next(iter(executor._topology.items()))  # stages stand in stream order
        assert isinstance(source, InputDataBuffer)
        slots = slots_of_pass(self._config, self._number)
        tasks = ComingTasks(self._config, slots, lambda: len(state.output_queue))
        source._input_data = tasks
        source._estimated_num_output_bundles = len(slots) // self._config.micro_batch
        source.has_completed = lambda: tasks.is_over and not source.has_next()

    def on_execution_step(self, executor: Any) -> None:
        """Ray Data keeps statistics of every block, and a place in its order for every task that is over."""
        for stage in executor._topology:
            if isinstance(stage, MapOperator):
                stage._output_blocks_stats.clear()
                _forget_past(stage._output_queue)


def _forget_past(queue: object) -> None:
    """Empty the places of tasks whose blocks have been taken, of a queue that keeps the order."""
    if isinstance(queue, ReorderingBundleQueue):
        for key in [key for key in queue._finalized_keys if key < queue._current_key]:
            queue._finalized_keys.discard(key)
            queue._inner.pop(key, None)
