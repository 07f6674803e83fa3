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


def check_sizing(sizing: SizingConfig) -> None:
    """Refuse prices that no stage has. Raises `ConfigError`."""
    for name, price in sizing.price_per_hour.items():
        if name not in PRICED:
            raise ConfigError(f"sizing.price_per_hour: got {name!r}, allowed are {', '.join(PRICED)}")
        if not (price >= 0 and math.isfinite(price)):
            raise ConfigError(f"sizing.price_per_hour.{name}: got {price}, must be at least 0")
