"""The part of the config that `--dry-run` reckons time and cost from. `config` imports it; `check_sizing` refuses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from echodfkd.errors import ConfigError

PRICED = ("source", "teacher", "students", "evaluator", "head")


@dataclass(frozen=True)
class SizingConfig:
    """What `--dry-run` reckons time and cost from (`echodfkd.sizing`)."""

    pilot: str = ""
    """Folder or fsspec URL of a finished short run of the same config; empty gives no estimate."""
    price_per_hour: dict[str, float] = field(default_factory=dict)
    """What one process of source, teacher, students, evaluator costs in an hour, and the head node; in any currency."""


def check_sizing(sizing: SizingConfig) -> None:
    """Refuse prices that no stage has. Raises `ConfigError`."""
    for name, price in sizing.price_per_hour.items():
        if name not in PRICED:
            raise ConfigError(f"sizing.price_per_hour: got {name!r}, allowed are {', '.join(PRICED)}")
        if not (price >= 0 and math.isfinite(price)):
            raise ConfigError(f"sizing.price_per_hour.{name}: got {price}, must be at least 0")
