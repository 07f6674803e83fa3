"""Refuses settings of `SynthesizeConfig` that cannot work, each in one sentence."""

from __future__ import annotations

import math
import re

from echodfkd.config.sections.source import SourceConfig
from echodfkd.config.sections.synthesize import SynthesizeConfig
from echodfkd.core.errors import ConfigError

FORMATS = ("echonet", "parquet")

_AT_LEAST = {
    "clips": 1,
    "first_index": 0,
    "frames": 0,
    "shard_clips": 1,
    "in_flight_per_cpu": 1,
    "preview": 0,
}


def check_synthesize(options: SynthesizeConfig, source: SourceConfig) -> None:
    """Raise `ConfigError` naming the option, what it got and what is allowed."""
    if options.format not in FORMATS:
        raise ConfigError(f"synthesize.format: got {options.format!r}, allowed are {', '.join(FORMATS)}")
    for key, least in _AT_LEAST.items():
        value = getattr(options, key)
        if value < least:
            raise ConfigError(f"synthesize.{key}: got {value}, must be at least {least}")
    kinds = {source.kind, *(part.kind for part in source.parts.values())} if source.kind == "mixture" else {source.kind}
    if options.frames == 1 or (options.frames == 0 and kinds & {"recorded", "camus"}):
        raise ConfigError(
            f"synthesize.frames: got {options.frames}, must be at least 2, or 0 (each clip's own length) for clips of"
            " the phantom"
        )
    if not options.num_cpus > 0:
        raise ConfigError(f"synthesize.num_cpus: got {options.num_cpus}, must be above 0")
    for name in (options.split, *options.split_shares):
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or name == "ALL":
            raise ConfigError(
                f"synthesize.split: got {name!r}, expected capital letters, digits and '_', and not ALL, e.g. TRAIN"
            )
    for name, share in options.split_shares.items():
        if not (math.isfinite(share) and share > 0):
            raise ConfigError(f"synthesize.split_shares.{name}: got {share}, must be above 0")
