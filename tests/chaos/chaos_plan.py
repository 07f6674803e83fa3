"""Draw the faults of a round from its seed only, so that each round can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass

from echodfkd.core.errors import ConfigError

FAULTS = {
    "teacher": "kill -9 of a teacher actor",
    "source": "kill -9 of the worker of a source task",
    "evaluator": "kill -9 of an evaluator",
    "student": "kill -9 of a student worker",
    "coordinator": "kill -9 of the stream's coordinator",
    "controller": "kill -9 of the train controller",
    "driver": "kill -9 of the driver, then the same command",
    "notice": "SIGTERM to the driver, then the same command",
}
"""Kinds of faults and their descriptions."""

_FIRST, _LAST = 0.05, 0.9
"""Faults strike in this part of the plan, between the first update and the last."""


@dataclass(frozen=True)
class Fault:
    """A fault of this kind, after ``step`` updates."""

    kind: str
    step: int


def plan_faults(seed: int, *, steps: int, count: int) -> list[Fault]:
    """Draw ``count`` faults for a run of ``steps`` updates, in random order, each kind once before any comes twice.

    Raises:
        ConfigError: the run is too short for so many faults.
    """
    moments = range(max(1, round(_FIRST * steps)), round(_LAST * steps))
    if not 1 <= count <= len(moments):
        raise ConfigError(
            f"--faults: got {count}, a run of {steps} updates (train.steps) takes 1 to {len(moments)} faults"
        )
    rng = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += rng.sample(sorted(FAULTS), len(FAULTS))
    return [Fault(*pair) for pair in zip(kinds[:count], sorted(rng.sample(moments, count)), strict=True)]
