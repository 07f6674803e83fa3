"""Facts that a pilot run tells for the estimate of a longer one (`sizing`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import InputError


def started_in(summary: Mapping[str, Any]) -> float:
    """Seconds to the pilot's first update; 0 if it does not tell."""
    found = summary["pipeline"].get("first_step_s")
    return float(found) if isinstance(found, int | float) and math.isfinite(found) and found > 0 else 0.0


def rate_of(summary: Mapping[str, Any], *stages: str) -> float:
    """Clips per second of a process that passes each clip through these stages."""
    seconds = 0.0
    for stage in stages:
        try:
            found = summary["pipeline"]["stages"][stage]
            clips, busy = float(found["clips"]), float(found["busy_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"sizing.pilot: its summary.json does not tell what the stage {stage} did") from error
        if not (clips > 0 and busy > 0 and math.isfinite(clips / busy)):
            raise InputError(f"sizing.pilot: its stage {stage} made {clips:g} clips in {busy:g} s; let it train longer")
        seconds += busy / clips
    return 1 / seconds


def own_rate(summary: Mapping[str, Any]) -> list[str]:
    """The rate that the pilot itself reached, to be held against the estimate's."""
    try:
        rate = float(summary["ledger"]["clips"]) / float(summary["pipeline"]["steady_s"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return []
    return [f"the pilot itself trained {rate:.1f} clips/s from its first update to its last"] if rate > 0 else []


def differences(config: RunConfig, pilot: RunConfig) -> list[str]:
    """Settings that differ between pilot and run, so that the rates may not hold."""
    kinds = [
        ("students", sorted(config.students), sorted(pilot.students)),
        ("teacher.kind", config.teacher.kind, pilot.teacher.kind),
        ("source.kind", config.source.kind, pilot.source.kind),
        ("train.global_batch", config.train.global_batch, pilot.train.global_batch),
        ("train.workers", config.train.workers, pilot.train.workers),
        ("train.engine", config.train.engine, pilot.train.engine),
        ("train.precision", config.train.precision, pilot.train.precision),
        ("train.num_gpus", config.train.num_gpus, pilot.train.num_gpus),
        ("train.num_cpus", config.train.num_cpus, pilot.train.num_cpus),
        ("teacher.num_gpus", config.teacher.num_gpus, pilot.teacher.num_gpus),
        ("teacher.num_cpus", config.teacher.num_cpus, pilot.teacher.num_cpus),
        *(
            (f"the {option} of the stage {name}", getattr(pool, option), getattr(pilot.generator_pools[name], option))
            for name, pool in config.generator_pools.items()
            for option in ("num_gpus", "num_cpus", "precision", "steps", "batch")
            if name in pilot.generator_pools
        ),
        ("window", vars(config.window), vars(pilot.window)),
    ]
    return [f"the pilot has {name} {theirs}, this run {ours}" for name, ours, theirs in kinds if ours != theirs]
