"""Build the pure parts of a run from its config: sources, slot rules, teachers. Sources are built once per process.

A part's own imports stand inside its function, because processes that do not use the part import this module too.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from echodfkd.config.run import PaintingLaw, RunConfig
from echodfkd.config.sections.privacy import PrivacyConfig
from echodfkd.config.sections.sees import SeesConfig
from echodfkd.config.sections.source import RECORDED_KINDS, PartConfig, SourceConfig
from echodfkd.config.sections.teacher import BY_CLIP
from echodfkd.config.sections.training import WindowConfig
from echodfkd.config.short_forms import map_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from echodfkd.models.teachers.protocol import Teacher
    from echodfkd.sources.clip_source import ClipSource
    from echodfkd.sources.steering.laws import Timetable
    from echodfkd.teaching.placement import SourcePlacement
    from echodfkd.teaching.routing import Router
    from echodfkd.teaching.slots import SlotRules


def training_source(config: RunConfig) -> ClipSource:
    """The source of training clips, with the renderings that the teacher sees, if they are others."""
    return _steered(config, pending=False) or _cached_source(*_training(config))


def drafting_source(config: RunConfig) -> ClipSource:
    """The same, except that generated clips are pending: a read task draws them, the generator's actors make them."""
    return _steered(config, pending=True) or _cached_source(*_training(config), pending=True)


def evaluation_source(config: RunConfig) -> ClipSource:
    """The source of held-out cases."""
    return _cached_source(*_evaluation(config))


def synthesis_source(config: RunConfig) -> ClipSource:
    """The source of clips that are written to a folder: synthesize.frames frames each, or their own number."""
    from echodfkd.sources.privacy import FilteredClips

    source = _cached_source(*_synthesis(config))
    return FilteredClips(source, _rejects(config.privacy)) if config.privacy.encoder else source


def _rejects(options: PrivacyConfig) -> Callable[[np.ndarray], str]:
    """The reason that a clip may not be used; loads the filter with the first clip."""

    def reason(video_THW: np.ndarray) -> str:
        from echodfkd.sources.privacy import privacy_filter

        return privacy_filter(options).reason(video_THW)

    return reason


def _privacy_notes(options: PrivacyConfig) -> list[str]:
    """The filter in a sentence. Loads it: files that cannot be used are found before a run."""
    from echodfkd.sources.privacy import privacy_filter

    return [privacy_filter(options).note] if options.encoder else []


def source_notes(config: RunConfig) -> list[str]:
    """Facts to tell about the run's data sets (`echodfkd.sources.notes`), a line each. Builds their sources.

    Raises:
        InputError: a source cannot be used.
    """
    said = [*_notes(_training(config), is_case=False), *_privacy_notes(config.privacy)]
    return said + (evaluation_notes(config) if config.evaluation.enabled else [])


def evaluation_notes(config: RunConfig) -> list[str]:
    """Those on the source of held-out cases."""
    return _notes(_evaluation(config), is_case=True)


def synthesis_notes(config: RunConfig) -> list[str]:
    """Those on the source of clips that are written to a folder."""
    return [*_notes(_synthesis(config), is_case=False), *_privacy_notes(config.privacy)]


def router(config: RunConfig) -> Router:
    """The members of an ensemble that teach a clip."""
    from echodfkd.teaching.routing import Router

    return Router(config.teacher.route, functools.partial(_gate, config) if config.teacher.route.gate else None)


def _gate(config: RunConfig) -> Teacher:
    """The member that decides routes, loaded once by a process."""
    key = repr((config.teacher.route.gate, config.teacher.members, config.seen_window))
    if key not in _GATES:
        from echodfkd.teaching.build import build_member

        _GATES[key] = build_member(config.teacher, config.teacher.route.gate, "cpu", None, config.seen_window).teacher
    return _GATES[key]


_GATES: dict[str, Teacher] = {}


def slot_rules(config: RunConfig) -> SlotRules:
    """How this run's slots become clips."""
    from echodfkd.teaching.slots import SlotRules

    window, seen = config.window, config.seen_window.size
    return SlotRules(
        config.plan_slots,
        config.data.max_attempts,
        (window.frames, window.size, window.size),
        classes=config.taught_classes,
        tasks=config.taught_tasks,
        fps=window.fps,
        confidence=config.teacher.confidence,
        mask_code=config.teacher.mask_code,
        stray_limit=config.teacher.stray_limit,
        augment=config.augment,
        seed=config.seed,
        rejects=_rejects(config.privacy) if config.privacy.encoder else None,
        router=router(config),
        seen_shape=(window.frames, seen, seen) if config.teacher.sees.is_on else None,
    )


def load_teacher(config: RunConfig, device: str | None = None) -> Teacher:
    """The teacher that the config names, checked against its reference. Raises `InputError` naming the option."""
    from echodfkd.teaching.build import build_configured_teacher, with_features

    options, shape = config.teacher, config.feature_shape
    teacher = build_configured_teacher(
        options, device=device or options.device, placement=_placement(config), window=config.seen_window
    )
    return teacher if shape is None else with_features(teacher, options, shape, config.window.size)


def load_member(config: RunConfig, name: str) -> Teacher:
    """One member of the ensemble that the config names, on the device of its own actor pool."""
    from echodfkd.teaching.build import build_member

    device = config.teacher.members[name].device
    return build_member(config.teacher, name, device, _placement(config), config.seen_window).teacher


def _placement(config: RunConfig) -> SourcePlacement | None:
    from echodfkd.teaching.placement import SourcePlacement, has_videos

    kinds = config.teacher.kinds
    if kinds.isdisjoint(BY_CLIP):
        return None
    if "labels" not in kinds and not has_videos(training_source(config)) and not has_videos(evaluation_source(config)):
        return None
    return SourcePlacement(lambda clip: evaluation_source(config) if clip.is_case else training_source(config))


def num_cases(config: RunConfig) -> int:
    """Held-out cases that this run scores: evaluation.cases, or all of a smaller set."""
    available = evaluation_source(config).num_cases
    wanted = config.evaluation.cases
    return wanted if available is None else min(wanted, available)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """Of training clips only: the other rendering that the teacher sees, the painter of which clip, and how many
    clips there are.
    """

    sees: SeesConfig = SeesConfig()  # noqa: RUF009 frozen
    painting: PaintingLaw | None = None
    clips: int = 0


_Arguments = tuple[SourceConfig, WindowConfig, int, int, str, _Trained]


def generated_parts(config: RunConfig) -> dict[str, PartConfig]:
    """Parts of the source that a generator makes, by name: that of an adversarial one lies in the run's own folder."""
    return _placed(config).generated


def _placed(config: RunConfig) -> SourceConfig:
    def place(suffix: str, part: PartConfig) -> PartConfig:
        if part.kind != "adversarial":
            return part
        return dataclasses.replace(part, generator=dataclasses.replace(part.generator, weights=config.root))

    return map_parts(config.source, place)


def _training(config: RunConfig) -> _Arguments:
    trained = _Trained(config.teacher.sees, config.painting, config.source.clips)
    return _placed(config), config.window, config.seed, config.evaluation.frames, "source", trained


def _evaluation(config: RunConfig) -> _Arguments:
    source, frames = config.evaluation.source, config.evaluation.frames
    return source, config.window, config.seed, frames, "evaluation.source", _Trained()


def _synthesis(config: RunConfig) -> _Arguments:
    window = dataclasses.replace(config.window, frames=config.synthesize.frames)
    return config.source, window, config.seed, config.evaluation.frames, "source", _Trained()


def _notes(arguments: _Arguments, *, is_case: bool) -> list[str]:
    source, option = arguments[0], arguments[4]
    return [f"{option} ({source.path or source.kind}): {note}" for note in _cached_notes(arguments, is_case)]


def _generator_notes(source: SourceConfig) -> tuple[str, ...]:
    """Those of its generators, each of which is loaded for them: files that cannot be used are found before a run."""
    from echodfkd.sources.generated.loaded import generator_notes

    found = ((name, generator_notes(part.kind, part.generator)) for name, part in source.generated.items())
    return tuple(f"{name}: {note}" if name else note for name, notes in found for note in notes)


@functools.lru_cache(maxsize=8)
def _cached_notes(arguments: _Arguments, is_case: bool) -> tuple[str, ...]:
    """Notes of a source, and on its first clips if they are read from files."""
    source = arguments[0]
    built = _cached_source(*arguments, pending=True)
    notes = built.notes + _generator_notes(source)
    if source.kind != "mixture" and source.kind not in RECORDED_KINDS:
        return notes
    from echodfkd.sources.notes import first_look

    make, what = (built.case, "cases") if is_case else (built.clip, "clips")
    return notes + first_look(make, built.num_cases if is_case else None, what)


def _steered(config: RunConfig, *, pending: bool) -> ClipSource | None:
    """The source of a steered run's clips; None without steering."""
    if not config.source.steering.strata:
        return None
    from echodfkd.sources.steering.laws import Timetable

    return _cached_steered(_training(config), pending, Timetable.of(config), config.root)


@functools.lru_cache(maxsize=8)
def _cached_steered(arguments: _Arguments, pending: bool, times: Timetable, root: str) -> ClipSource:
    from echodfkd.sources.generated.source import GeneratedSource
    from echodfkd.sources.mixture import MixtureSource
    from echodfkd.sources.phantom.source import PhantomSource
    from echodfkd.sources.seen import SeenSource
    from echodfkd.sources.steering.plan import SteeringPlan
    from echodfkd.sources.steering.source import steered

    *given, trained = arguments
    inner = _cached_source(*given, _Trained(), pending)
    assert isinstance(inner, PhantomSource | GeneratedSource | MixtureSource), "check_steering allows no other"
    drawn = steered(inner, SteeringPlan(arguments[0], arguments[2]), times, root)
    return SeenSource(drawn, trained.sees) if trained.sees.is_on else drawn


@functools.lru_cache(maxsize=8)
def _cached_source(
    source: SourceConfig,
    window: WindowConfig,
    seed: int,
    case_frames: int,
    option: str,
    trained: _Trained,
    pending: bool = False,
) -> ClipSource:
    from echodfkd.sources.build import build_source
    from echodfkd.sources.repeated import RepeatedSource
    from echodfkd.sources.seen import SeenSource

    built: ClipSource = build_source(
        source,
        window,
        seed=seed,
        case_frames=case_frames,
        option=option,
        pending=pending,
        painting=trained.painting,
    )
    built = SeenSource(built, trained.sees) if trained.sees.is_on else built
    return RepeatedSource(built, trained.clips) if trained.clips else built
