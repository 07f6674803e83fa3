"""Build the source that a config names; each kind's module is imported only when it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from echodfkd.config.rules.source import exact_shares
from echodfkd.config.sections.source import PartConfig, SourceConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError
from echodfkd.sources.clip_source import ClipSource, WindowSettings


def build_source(source: SourceConfig, window: WindowConfig, *, seed: int, case_frames: int) -> ClipSource:
    """Build the source that the config names.

    Args:
        source: kind and location of the clips.
        window: shape of training clips.
        seed: the run's seed.
        case_frames: frames of one evaluation case.

    Raises:
        InputError: the source cannot be used at all (missing or empty folder, unreadable table).
        ConfigError: its options contradict each other or a table's rows, or name an unknown domain.
    """
    seed += source.seed_offset
    settings = WindowSettings(window.frames, window.fps, window.size, case_frames)
    if source.kind != "mixture":
        return _BUILDERS[source.kind](source, settings, seed)
    from echodfkd.sources.mixture import MixtureSource

    counts = exact_shares({name: part.weight for name, part in source.parts.items()}, "source.parts")
    parts = {
        name: _BUILDERS[part.kind](part, settings, part_seed(seed, name, part.seed_offset))
        for name, part in source.parts.items()
    }
    return MixtureSource(parts, counts, cases_from=source.cases_from)


def part_seed(seed: int, name: str, seed_offset: int) -> int:
    """Seed of a mixture's part, by its name: parts show different patients, and a new part changes no other."""
    return seed + seed_offset + (int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1)


def _phantom(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    from echodfkd.sources.patients.sampler import ConditionSampler
    from echodfkd.sources.phantom.domains import DOMAIN_NAMES
    from echodfkd.sources.phantom.source import PhantomSource

    if part.domain not in DOMAIN_NAMES:
        raise ConfigError(f"source.domain: got {part.domain!r}, allowed are {', '.join(DOMAIN_NAMES)}")
    return PhantomSource(ConditionSampler(part.conditions, seed=seed), settings, seed=seed, domain=part.domain)


def _recorded(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    from echodfkd.sources.recorded import RecordedSource

    return RecordedSource(part.path, part.split, settings, seed=seed)


def _camus(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    from echodfkd.sources.camus import CamusSource

    return CamusSource(part.path, part.split, part.view, settings, seed=seed)


_BUILDERS: dict[str, Callable[[PartConfig, WindowSettings, int], ClipSource]] = {
    "phantom": _phantom,
    "recorded": _recorded,
    "camus": _camus,
}
