"""Checks of `train` and `sizing`."""

from __future__ import annotations

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


def check_sizing(sizing: SizingConfig) -> None:
    """Refuse prices of unknown stages. Raises `ConfigError`."""
    for option in ("price_per_hour", "per_machine", "losses_per_hour"):
        for name in getattr(sizing, option):
            if name not in PRICED:
                raise ConfigError(f"sizing.{option}: got {name!r}, allowed are {', '.join(PRICED)}")
