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
from typing import Any

import ray.data
from ray.data import DataContext, Dataset, ExecutionOptions, ExecutionResources, TaskPoolStrategy

from echodfkd.config.run import RunConfig
from echodfkd.runtime.cluster.connection import labels_of_stream
from echodfkd.runtime.stream.generator_pool import generating_stages
from echodfkd.runtime.stream.pacing import PacedScheduling, PatientPools
from echodfkd.runtime.stream.plan import ClipDatasource, OpenPlan
from echodfkd.runtime.stream.pool_worker import CarriedPool
from echodfkd.runtime.stream.teacher_pool import teaching_stages


def execution_options(config: RunConfig) -> ExecutionOptions:
    """Order and memory of the stream."""
    return ExecutionOptions(
        preserve_order=config.data.order == "fixed",
        resource_limits=ExecutionResources.for_limits(object_store_memory=config.data.ahead_mb << 20),
    )


def build_stream(config: RunConfig, number: int, teacher_id: str, progress_actor: Any = None) -> Dataset:
    """The slots of a pass that no published checkpoint has consumed (`plan`).

    Called in an actor of Ray Train, which does not inherit the driver's DataContext, so it is set here.
    """
    context = DataContext.get_current()
    context.execution_options = execution_options(config)
    context.max_consecutive_actor_init_deaths = 3  # 0 by default: one failed load would end the run
    context.execution_no_progress_timeout_s = config.data.no_progress_timeout_s or -1
    context.target_max_block_size = 256 << 20  # a block is a micro-batch: never split it
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    opening: Any = functools.partial(OpenPlan, config, number)  # Ray Data calls it as it would the class
    context.custom_execution_callback_classes = [PacedScheduling, PatientPools, opening]
    stream = ray.data.read_datasource(
        ClipDatasource(config),
        override_num_blocks=1,  # the least: no block is split
        num_cpus=config.data.source_num_cpus,
        label_selector=labels_of_stream("", config.evaluation.node_label),
        compute=TaskPoolStrategy(size=config.data.source_tasks),
    )
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
