"""What the options under ``train`` must be to each other."""

from __future__ import annotations

from echodfkd.config import RunConfig
from echodfkd.errors import ConfigError


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
