"""The stream from source to students, as a Ray Data plan: read tasks make clips or draw those of a generator, whose
actors make them, and actor pools teach them.

One read task makes one block, and one block is one micro-batch of one worker. With `data.order: fixed`
blocks leave in plan order, so that the global batch of step s is always the slots s*G .. (s+1)*G - 1, for any
number of workers, actors and restarts.

Ray unpickles the plan in several processes that make neither clips nor masks while a run starts, one after the other.
So imports of read tasks are inside their functions, and torch is not imported here (two seconds and 130 MB each).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import ray.data
from ray.data import (
    DataContext,
    Dataset,
    Datasource,
    ExecutionOptions,
    ExecutionResources,
    ReadTask,
    TaskPoolStrategy,
)
from ray.data.block import Block, BlockAccessor, BlockMetadata

from echodfkd.config.run import RunConfig
from echodfkd.runtime.cluster.connection import actor_name, labels_of_stream
from echodfkd.runtime.stream.builders import drafting_source, slot_rules
from echodfkd.runtime.stream.generator_pool import generating_stages
from echodfkd.runtime.stream.pacing import PacedScheduling
from echodfkd.runtime.stream.pool_worker import CarriedPool
from echodfkd.runtime.stream.teacher_pool import teaching_stages
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint, read_consumed


def execution_options(config: RunConfig) -> ExecutionOptions:
    """Order and memory of the stream."""
    return ExecutionOptions(
        preserve_order=config.data.order == "fixed",
        resource_limits=ExecutionResources.for_limits(object_store_memory=config.data.ahead_mb << 20),
    )


def build_stream(config: RunConfig, segment: int, teacher_id: str, progress_actor: Any = None) -> Dataset:
    """The slots of this segment that no published checkpoint has consumed.

    Called in the train controller at every start and restart of the worker group. The controller does not inherit the
    driver's DataContext, so it is set here.
    """
    context = DataContext.get_current()
    context.execution_options = execution_options(config)
    context.max_consecutive_actor_init_deaths = 3  # 0 by default: one failed load would end the run
    context.execution_no_progress_timeout_s = config.data.no_progress_timeout_s or -1
    context.target_max_block_size = 256 << 20  # a block is a micro-batch: never split it
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.custom_execution_callback_classes = [PacedScheduling]
    datasource = ClipDatasource(config, segment)
    stream = ray.data.read_datasource(
        datasource,
        override_num_blocks=1,  # the least: no block is split
        num_cpus=config.data.source_num_cpus,
        label_selector=labels_of_stream("", config.evaluation.node_label),
        compute=TaskPoolStrategy(size=config.data.source_tasks),
    )
    datasource.is_open = True
    for stage in [*generating_stages(config, progress_actor), *teaching_stages(config, teacher_id, progress_actor)]:
        stream = stream.map_batches(
            stage.named_actor,
            fn_constructor_kwargs=stage.arguments,
            batch_size=config.micro_batch,
            batch_format="numpy",
            num_cpus=stage.pool.num_cpus,
            num_gpus=stage.pool.num_gpus or None,
            label_selector=labels_of_stream(stage.pool.node_label, config.evaluation.node_label),
            compute=CarriedPool(stage, progress_actor),
        )
    return stream


def remaining_blocks(config: RunConfig, segment: int) -> list[list[int]]:
    """Slots of this segment still to be trained, in order, cut into micro-batches."""
    batch = config.train.global_batch
    start = segment * config.segment_steps * batch
    stop = min((segment + 1) * config.segment_steps * batch, config.plan_slots)
    storage = RunStorage(config.root)
    newest = latest_checkpoint(storage)
    consumed = read_consumed(storage, newest) if newest else None
    slots = [slot for slot in range(start, stop) if consumed is None or slot not in consumed]
    size = config.micro_batch
    return [slots[first : first + size] for first in range(0, len(slots), size)]


class ClipDatasource(Datasource):
    """Read tasks that make clips by slot. A task holds the config and a few numbers, never pixels.

    The slots of a segment are listed by the coordinator that runs it. Ray Train makes the datasets of all segments at
    every start and restart of its workers, and Ray Data asks each for its tasks at once: until ``is_open`` it gets one
    without a clip, so that a start does not cost the more the longer the run is.
    """

    def __init__(self, config: RunConfig, segment: int) -> None:
        super().__init__()
        self.config = config
        self.segment = segment
        self.is_open = False

    @functools.cached_property
    def blocks(self) -> list[list[int]]:
        """See `remaining_blocks`."""
        return remaining_blocks(self.config, self.segment)

    def get_name(self) -> str:
        """Name of the stage in Ray's statistics."""
        return "Clips"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of all clips of the segment."""
        return self.config.segment_steps * self.config.train.global_batch * self._clip_bytes

    def get_read_tasks(self, parallelism: int, *unused: object, **also_unused: object) -> list[ReadTask]:
        """One task per block, in plan order."""
        return [
            ReadTask(
                functools.partial(_read_block, self.config, slots),
                BlockMetadata(
                    num_rows=len(slots), size_bytes=len(slots) * self._clip_bytes, input_files=None, exec_stats=None
                ),
            )
            for slots in (self.blocks if self.is_open else [[]])
        ]

    @property
    def _clip_bytes(self) -> int:
        window, seen = self.config.window, self.config.seen_window.size if self.config.teacher.sees.is_on else 0
        return window.frames * (window.size**2 + seen**2) + 256


def _read_block(config: RunConfig, slots: list[int]) -> Iterable[Block]:
    from echodfkd.teaching.blocks import make_block

    block = make_block(drafting_source(config), slots, slot_rules(config), actor=actor_name("source"))
    return [block_of(block.to_columns())]


def block_of(columns: dict[str, np.ndarray]) -> Block:
    """Columns as an Arrow block."""
    return BlockAccessor.batch_to_block(columns)
