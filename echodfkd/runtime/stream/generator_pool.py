"""The actors of a generator's pool: each loads the generator once, and makes the pixels of pending clips.

A mixture has a pool for each part that a generator makes; a block passes them one after the other, and each leaves the
rows of the others alone. An actor works on several blocks at once, in threads: while one batch is on the device, the
requests of the next are drawn (`BatchedGenerator`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from echodfkd.config.run import RunConfig
from echodfkd.runtime.stream.builders import generated_parts, slot_rules, training_source
from echodfkd.runtime.stream.pool_worker import PoolWorker, Stage
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import wait_for_checkpoint

MOST_BLOCKS = 64
"""Most blocks that one actor holds: for a small share of a mixture a device batch would need hundreds."""


def generating_stages(config: RunConfig, progress_actor: Any = None) -> list[Stage]:
    """The pools that a block of clips passes before it is taught, in order. They tell ``progress_actor`` their work."""
    known = {"config": config, "progress_actor": progress_actor}
    return [
        Stage(stage, GeneratorActor, {**known, "stage": stage}, pool, concurrency=blocks_at_once(config, stage))
        for stage, pool in config.generator_pools.items()
    ]


def blocks_at_once(config: RunConfig, stage: str) -> int:
    """Blocks that one actor holds: those whose clips are on the device, and as many again that gather meanwhile."""
    clips = config.micro_batch * config.source.share(stage.partition(".")[2])
    return min(MOST_BLOCKS, 2 * math.ceil(config.generator_pools[stage].batch / clips))


class GeneratorActor:
    """Makes the pending clips of one generated source.

    Args:
        config: the run.
        stage: key of `RunConfig.generator_pools`.
        progress_actor: is told of every block; None is told nothing.
    """

    def __init__(self, config: RunConfig, stage: str, progress_actor: Any = None) -> None:
        from echodfkd.models.teachers.build import pick_device
        from echodfkd.sources.generated.loaded import loaded_generator
        from echodfkd.teaching.generating import GeneratedPart

        name = stage.partition(".")[2]
        part = generated_parts(config)[name]
        pick_device(part.generator.device, "source.generator.device")
        self.stage = stage
        self.worker = PoolWorker(part.generator, stage, progress_actor)
        generator = loaded_generator(part.kind, part.generator)
        generator.watch = self.worker.watched
        wait = functools.partial(wait_for_checkpoint, RunStorage(config.root))
        self.part = GeneratedPart(training_source(config), name, generator, wait)
        self.rules = slot_rules(config)

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns between source and teacher, pending clips made."""
        from echodfkd.teaching.generating import fill_block

        return self.worker.run(
            columns,
            lambda block: fill_block(self.part, block, self.rules, stage=self.stage, actor=self.worker.name),
            watch=False,
        )
