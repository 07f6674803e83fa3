"""One dictionary: a source's name -> its builder, imported when it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from echodfkd.config.rules.source import exact_shares
from echodfkd.config.sections.source import PartConfig, SourceConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError
from echodfkd.sources.clip_source import ClipSource


def build_source(source: SourceConfig, window: WindowConfig, *, seed: int, case_frames: int) -> ClipSource:
    """Build the source that the config names.

    Args:
        source: kind and place of the clips.
        window: what training clips are cut to.
        seed: the run's seed.
        case_frames: frames of one evaluation case.

    Raises:
        InputError: the source cannot be used at all (missing or empty folder, unreadable table).
        ConfigError: its options contradict each other or a table's rows, or name an unknown domain.
    """
    seed += source.seed_offset
    if source.kind != "mixture":
        return _BUILDERS[source.kind](source, window, seed, case_frames)
    from echodfkd.sources.mixture import MixtureSource

    counts = exact_shares({name: part.weight for name, part in source.parts.items()}, "source.parts")
    parts = {
        name: _BUILDERS[part.kind](part, window, part_seed(seed, name, part.seed_offset), case_frames)
        for name, part in source.parts.items()
    }
    return MixtureSource(parts, counts, cases_from=source.cases_from)


def part_seed(seed: int, name: str, seed_offset: int) -> int:
    """Seed of a mixture's part: by its name, so that parts show different patients and others may come and go."""
    return seed + seed_offset + (int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1)


def _phantom(part: PartConfig, window: WindowConfig, seed: int, case_frames: int) -> ClipSource:
    from echodfkd.sources.patients.sampler import ConditionSampler
    from echodfkd.sources.phantom.domains import DOMAINS
    from echodfkd.sources.phantom.source import PhantomSource

    if part.domain not in DOMAINS:
        raise ConfigError(f"source.domain: got {part.domain!r}, allowed are {', '.join(DOMAINS)}")
    return PhantomSource(
        seed=seed,
        num_frames=window.frames,
        fps=window.fps,
        size=window.size,
        case_frames=case_frames,
        sampler=ConditionSampler(part.conditions, seed=seed),
        domain=part.domain,
    )


def _recorded(part: PartConfig, window: WindowConfig, seed: int, case_frames: int) -> ClipSource:
    from echodfkd.sources.recorded import RecordedSource

    return RecordedSource(
        path=part.path,
        split=part.split,
        seed=seed,
        num_frames=window.frames,
        fps=window.fps,
        size=window.size,
        case_frames=case_frames,
    )


def _camus(part: PartConfig, window: WindowConfig, seed: int, case_frames: int) -> ClipSource:
    from echodfkd.sources.camus import CamusSource

    return CamusSource(
        path=part.path,
        split=part.split,
        view=part.view,
        seed=seed,
        num_frames=window.frames,
        fps=window.fps,
        size=window.size,
        case_frames=case_frames,
    )


_BUILDERS: dict[str, Callable[[PartConfig, WindowConfig, int, int], ClipSource]] = {
    "phantom": _phantom,
    "recorded": _recorded,
    "camus": _camus,
}
