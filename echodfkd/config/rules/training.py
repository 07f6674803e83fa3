"""What the options under ``train`` must be to each other."""

from __future__ import annotations

import math

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.sizing import PRICED, SizingConfig
from echodfkd.core.errors import ConfigError


def check_batches(config: RunConfig) -> None:
    """Refuse a batch that the workers cannot share. Raises `ConfigError`."""
    train = config.train
    parts = train.workers * train.accumulation
    if train.global_batch % parts:
        raise ConfigError(
            f"train.global_batch: got {train.global_batch}, must be a multiple of train.workers"
            f" ({train.workers}) x train.accumulation ({train.accumulation}) = {parts}"
        )


def check_placement(config: RunConfig) -> None:
    """Refuse students that cannot be spread over the workers. Raises `ConfigError`."""
    train = config.train
    if train.placement != "spread":
        return
    if train.engine != "plain":
        raise ConfigError(
            f"train.engine: got {train.engine}, but train.placement=spread keeps each student whole on one worker,"
            " where DeepSpeed has nothing to shard; set train.engine=plain"
        )
    if config.students and len(config.students) < train.workers:
        raise ConfigError(
            f"train.workers: got {train.workers}, but train.placement is spread and there are {len(config.students)}"
            " students: a worker would have none"
        )


def check_sizing(sizing: SizingConfig) -> None:
    """Refuse prices that no stage has. Raises `ConfigError`."""
    for name, price in sizing.price_per_hour.items():
        if name not in PRICED:
            raise ConfigError(f"sizing.price_per_hour: got {name!r}, allowed are {', '.join(PRICED)}")
        if not (price >= 0 and math.isfinite(price)):
            raise ConfigError(f"sizing.price_per_hour.{name}: got {price}, must be at least 0")
