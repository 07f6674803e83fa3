"""Build the source that a config names; each kind's module is imported only when it is used."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

from echodfkd.config.run import PaintingLaw, RunConfig
from echodfkd.config.sections.generator import GENERATORS
from echodfkd.config.sections.source import RECORDED_KINDS, PartConfig, SourceConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.sources.clip_source import ClipSource, WindowSettings


def check_drawn_sources(config: RunConfig) -> None:
    """Refuse patients that cannot be drawn, of training clips and of held-out cases: phantoms need no file but a table.
    Refuse strata of a steered run that hold none.

    Raises:
        ConfigError: names the option.
        InputError: a table of patients cannot be read.
    """
    from echodfkd.sources.patients.sampler import ConditionSampler

    for option, source in (("source", config.source), ("evaluation.source", config.evaluation.source)):
        parts: dict[str, PartConfig] = {f"{option}.parts.{name}": part for name, part in source.parts.items()}
        for where, part in (parts or {option: source}).items():
            if part.kind not in RECORDED_KINDS:
                with _named(where):
                    ConditionSampler(part.conditions, seed=config.seed)
    if config.source.steering.strata:
        from echodfkd.sources.steering.plan import SteeringPlan

        SteeringPlan(config.source, config.seed)


def build_source(
    source: SourceConfig,
    window: WindowConfig,
    *,
    seed: int,
    case_frames: int,
    option: str = "source",
    pending: bool = False,
    painting: PaintingLaw | None = None,
) -> ClipSource:
    """Build the source that the config names.

    Args:
        source: kind and location of the clips.
        window: shape of training clips.
        seed: the run's seed.
        case_frames: frames of one evaluation case.
        option: the source's name in the config.
        pending: leave the pixels of generated clips to the generators' own actors (`VideoClip.pending`).
        painting: of a run that trains the painter of its adversarial clips.

    Raises:
        InputError: the source cannot be used at all (missing or empty folder, unreadable table).
        ConfigError: its options contradict each other or a table's rows.
    """
    seed += source.seed_offset
    settings = WindowSettings(window.frames, window.fps, window.size, case_frames)
    if source.kind != "mixture":
        return _build(option, source, settings, seed, _Making(pending, painting.step if painting else None))
    from echodfkd.sources.mixture import MixtureSource, Schedule, part_counts, part_seed

    counts = part_counts(source, option)
    order = Schedule(counts)

    def making(name: str) -> _Making:
        return _Making(pending, (lambda number: painting.step(order.index(name, number))) if painting else None)

    parts = {
        name: _build(f"{option}.parts.{name}", part, settings, part_seed(seed, name, part.seed_offset), making(name))
        for name, part in source.parts.items()
    }
    return MixtureSource(parts, counts, cases_from=source.cases_from)


@dataclasses.dataclass(frozen=True)
class _Making:
    """Of generated clips: whether others make them; a part's number -> updates of the painter of an adversarial one."""

    pending: bool
    step: Callable[[int], int] | None


def _build(option: str, part: PartConfig, settings: WindowSettings, seed: int, making: _Making) -> ClipSource:
    with _named(option):
        if part.kind in GENERATORS:
            return _generated(part, settings, seed, making)
        return _BUILDERS[part.kind](part, settings, seed)


@contextlib.contextmanager
def _named(option: str) -> Iterator[None]:
    """Put the part's option before a sentence on its conditions: a sampler does not know whose they are."""
    try:
        yield
    except (ConfigError, InputError) as error:
        sentence = str(error)
        raise type(error)(f"{option}.{sentence}" if sentence.startswith("conditions.") else sentence) from error


def _phantom(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    from echodfkd.sources.patients.sampler import ConditionSampler
    from echodfkd.sources.phantom.source import PhantomSource

    return PhantomSource(ConditionSampler(part.conditions, seed=seed), settings, seed=seed, domain=part.domain)


def _generated(part: PartConfig, settings: WindowSettings, seed: int, making: _Making) -> ClipSource:
    from echodfkd.sources.generated.loaded import loaded_generator
    from echodfkd.sources.generated.source import GeneratedSource
    from echodfkd.sources.patients.sampler import ConditionSampler

    load = None if making.pending else functools.partial(loaded_generator, part.kind, part.generator)
    step = making.step if part.kind == "adversarial" else None
    sampler = ConditionSampler(part.conditions, seed=seed)
    return GeneratedSource(part, sampler, settings, seed=seed, generator=load, step=step)


def _recorded(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    from echodfkd.sources.recorded import RecordedSource

    return RecordedSource(part.path, part.split, settings, seed=seed)


def _camus(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    from echodfkd.sources.camus import CamusSource

    return CamusSource(part.path, part.split, part.view, settings, seed=seed)


def _folder(part: PartConfig, settings: WindowSettings, seed: int) -> ClipSource:
    from echodfkd.sources.folder import FolderSource

    return FolderSource(part.path, part.split, settings, seed=seed, kind=part.kind, video_fps=part.video_fps)


_BUILDERS: dict[str, Callable[[PartConfig, WindowSettings, int], ClipSource]] = {
    "phantom": _phantom,
    "recorded": _recorded,
    "camus": _camus,
    "folder": _folder,
    "dicom": _folder,
}
