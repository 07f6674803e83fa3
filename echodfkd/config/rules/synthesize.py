"""Checks of `synthesize`."""

from __future__ import annotations

import re

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.source import RECORDED_KINDS
from echodfkd.core.errors import ConfigError

MAX_SHARDS = 1_000_000
MAX_SHARD_BYTES = 4 << 30
"""Of the frames that one task holds at once."""


def check_synthesize(config: RunConfig) -> None:
    """Refuse lengths and splits that no clip can have, and shards that no task can hold. Raises `ConfigError`."""
    options, source = config.synthesize, config.source
    kinds = {source.kind, *(part.kind for part in source.parts.values())} if source.kind == "mixture" else {source.kind}
    if options.frames == 1 or (options.frames == 0 and kinds & {*RECORDED_KINDS}):
        raise ConfigError(
            f"synthesize.frames: got {options.frames}, must be at least 2, or 0 (each clip's own length) for clips of"
            " the phantom"
        )
    shards, size = -(-options.clips // options.shard_clips), config.window.size
    if shards > MAX_SHARDS:
        raise ConfigError(
            f"synthesize.shard_clips: got {options.shard_clips}, which makes {shards} shards of {options.clips} clips,"
            f" at most {MAX_SHARDS} are allowed"
        )
    held = min(options.shard_clips, options.clips) * options.frames * size**2
    if held > MAX_SHARD_BYTES:
        raise ConfigError(
            f"synthesize.shard_clips: got {options.shard_clips} clips of {options.frames} frames of {size} x {size},"
            f" which are {held} bytes in one task, at most {MAX_SHARD_BYTES} are allowed"
        )
    for name in (options.split, *options.split_shares):
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or name == "ALL":
            raise ConfigError(
                f"synthesize.split: got {name!r}, expected capital letters, digits and '_', and not ALL, e.g. TRAIN"
            )
