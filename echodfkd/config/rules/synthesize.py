"""Checks of `synthesize`."""

from __future__ import annotations

import re

from echodfkd.config.sections.source import SourceConfig
from echodfkd.config.sections.synthesize import SynthesizeConfig
from echodfkd.core.errors import ConfigError


def check_synthesize(options: SynthesizeConfig, source: SourceConfig) -> None:
    """Refuse lengths and splits that no clip can have. Raises `ConfigError`."""
    kinds = {source.kind, *(part.kind for part in source.parts.values())} if source.kind == "mixture" else {source.kind}
    if options.frames == 1 or (options.frames == 0 and kinds & {"recorded", "camus"}):
        raise ConfigError(
            f"synthesize.frames: got {options.frames}, must be at least 2, or 0 (each clip's own length) for clips of"
            " the phantom"
        )
    for name in (options.split, *options.split_shares):
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or name == "ALL":
            raise ConfigError(
                f"synthesize.split: got {name!r}, expected capital letters, digits and '_', and not ALL, e.g. TRAIN"
            )
