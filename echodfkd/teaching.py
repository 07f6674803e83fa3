"""What one source task and one teacher actor do, without Ray: clips of some slots, their soft masks, and the
replacement of what is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from echodfkd import clock
from echodfkd.config_augment import AugmentConfig
from echodfkd.errors import ClipError
from echodfkd.metrics.beat import beat_targets
from echodfkd.models.teacher import ClipKey, Teacher, masks_of_clips, masks_shape, pick_classes, quantise
from echodfkd.models.teacher_features import FeatureTeacher
from echodfkd.records import Quarantined, StageSpan, VideoClip, append_bookkeeping, clip_columns
from echodfkd.synthesis.source import ClipSource
from echodfkd.teachers.cache import CachedTeacher
from echodfkd.video.augment import augment_clip


@dataclass(frozen=True)
class SlotRules:
    """How slots become clips: N slots, ``max_attempts`` indices for one of them, windows of (T, H, W).

    ``classes`` and ``tasks`` are what the students of the run ask for, ``fps`` the windows' frame rate. ``augment`` and
    ``seed`` say how clips are varied, before the teacher or after it. Both places are before the stream is cut into the
    parts of the workers, and so the same for any number of them, after any restart, and for all students of the run.
    """

    plan_slots: int
    max_attempts: int
    video_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ("LV",)
    tasks: tuple[str, ...] = ()
    fps: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0


def make_block(source: ClipSource, slots: Sequence[int], rules: SlotRules, *, actor: str) -> dict[str, np.ndarray]:
    """Make the clips of some slots: the work of one source task.

    Returns the columns of `clip_columns`. Indices at fault are quarantined and replaced (see `records`);
    a slot without any usable clip leaves a sentence in ``fault`` and a black video in its place.
    """
    start = clock.now()
    draws = [_draw(source, slot, 0, rules) for slot in slots]
    usable = [draw.clip for draw in draws if draw.clip is not None]
    assert all(clip.video.shape == rules.video_shape for clip in usable), "a source must cut its windows"
    clips = [draw.clip or _black_clip(slot, rules.video_shape) for slot, draw in zip(slots, draws, strict=True)]
    frames = sum(len(clip.video) for clip in usable)
    return clip_columns(
        clips,
        slots=slots,
        attempts=[draw.attempts for draw in draws],
        quarantined=[row for draw in draws for row in draw.quarantined],
        spans=[StageSpan("source", actor, start, clock.now(), len(usable), frames)],
        fault=next((draw.fault for draw in draws if draw.fault), ""),
    )


def teach_block(
    teacher: Teacher,
    block: dict[str, np.ndarray],
    source: Callable[[], ClipSource],
    rules: SlotRules,
    *,
    actor: str,
) -> dict[str, np.ndarray]:
    """Add soft masks to a block; a clip whose masks are missing or not finite is quarantined and replaced.

    Args:
        teacher: makes probabilities.
        block: columns of `clip_columns`; not changed.
        source: makes the source, called only where a clip must be replaced.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.

    Returns:
        The block's columns without ``attempts``, with ``teacher_prob`` uint8 (N, T, H, W), or (N, T, C, H, W) where
        more classes are asked for, and with ``teacher_phase``, ``teacher_ef`` and ``teacher_features`` where they are
        (see `records`).

    Raises:
        RunError: the teacher returned another shape than it was given.
    """
    start, hits, block = clock.now(), _hits(teacher), dict(block)
    attempts = block.pop("attempts").copy()
    if str(block["fault"][0]):
        nothing = np.zeros(masks_shape(teacher, block["video"]), np.float32)
        return {**block, **_targets(teacher, nothing, rules), **_no_features(teacher, block["video"])}
    prob, features, bad = _teach(teacher, block["video"], _keys(block))
    if bad:
        block, prob = {name: column.copy() for name, column in block.items()}, prob.copy()
    quarantined: list[Quarantined] = []
    fault = ""
    while not fault and bad:
        for row, reason in list(bad.items()):
            slot = int(block["slot"][row])
            found = Quarantined(slot, int(block["index"][row]), str(block["clip_id"][row]), "teacher", reason)
            draw = _draw(source(), slot, int(attempts[row]), rules)
            attempts[row] = draw.attempts
            quarantined += [found, *draw.quarantined]
            if draw.clip is None:
                fault = draw.fault or _exhausted(slot, rules, found)
                prob[row] = 0.0
            else:
                _replace_row(block, row, draw.clip)
                again, shown, faults = _teach(teacher, block["video"][row : row + 1], _keys(block)[row : row + 1])
                prob[row], bad[row] = 0.0 if faults else again[0], faults.get(0, "")
                for name, column in shown.items():
                    features[name][row] = column[0]
        bad = {row: reason for row, reason in bad.items() if reason}
    spans = _spans(actor, start, len(prob), prob.shape[1], _hits(teacher) - hits)
    taught = {**block, **_targets(teacher, prob, rules), **features}
    if rules.augment.where == "after_teacher" and rules.augment.is_on:
        taught |= _augmented(taught, rules)
    return append_bookkeeping(taught, quarantined, spans, fault)


@dataclass(frozen=True)
class _Draw:
    clip: VideoClip | None
    attempts: int
    quarantined: list[Quarantined]
    fault: str


def _draw(source: ClipSource, slot: int, attempt: int, rules: SlotRules) -> _Draw:
    """The first usable clip among the indices slot + a * N, from attempt ``a`` on."""
    quarantined: list[Quarantined] = []
    while attempt < rules.max_attempts:
        index = slot + attempt * rules.plan_slots
        attempt += 1
        try:
            return _Draw(_varied(source.clip(index), rules), attempt, quarantined, "")
        except ClipError as error:
            clip_id = getattr(error, "clip_id", f"{source.name}-i{index}")
            quarantined.append(Quarantined(slot, index, clip_id, "source", str(error)))
    fault = _exhausted(slot, rules, quarantined[-1]) if quarantined else ""
    return _Draw(None, attempt, quarantined, fault)


def _varied(clip: VideoClip, rules: SlotRules) -> VideoClip:
    """The clip as the teacher shall see it. Its truth stays behind, since it does not move with the pixels."""
    if rules.augment.where != "before_teacher" or not rules.augment.is_on:
        return clip
    video, _ = augment_clip(clip.video, None, rules.augment, seed=rules.seed, index=clip.index, epoch=clip.epoch)
    return replace(clip, video=video, truth_labels=None)


def _augmented(taught: dict[str, np.ndarray], rules: SlotRules) -> dict[str, np.ndarray]:
    """The columns ``video`` and ``teacher_prob``, each clip varied with its masks. Phase and EF stay what they were."""
    videos, masks = [], []
    for row in zip(*(taught[name] for name in ("video", "teacher_prob", "index", "epoch")), strict=True):
        video, codes, index, epoch = row
        prob = codes.reshape(len(codes), -1, *codes.shape[-2:]).astype(np.float32) / np.float32(255)
        video, moved = augment_clip(video, prob, rules.augment, seed=rules.seed, index=int(index), epoch=int(epoch))
        assert moved is not None
        videos.append(video)
        masks.append(quantise(moved).reshape(codes.shape))
    return {"video": np.stack(videos), "teacher_prob": np.stack(masks)}


def _exhausted(slot: int, rules: SlotRules, last: Quarantined) -> str:
    return (
        f"slot {slot} found no usable clip in {rules.max_attempts} attempts (data.max_attempts);"
        f" the last was {last.clip_id}: {last.reason}"
    )


def _teach(
    teacher: Teacher, video_NTHW: np.ndarray, clips: Sequence[ClipKey]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[int, str]]:
    """`masks_of_clips`, with the column ``teacher_features`` (N, T, F, h, w) where the teacher shows features."""
    prob, bad = masks_of_clips(teacher, video_NTHW, clips)
    if not isinstance(teacher, FeatureTeacher):
        return prob, {}, bad
    for row in np.flatnonzero(~np.isfinite(teacher.features).all(axis=(1, 2, 3, 4))):
        bad.setdefault(int(row), f"the teacher {teacher.teacher_id} gave features that are not finite")
    return prob, {"teacher_features": teacher.features}, dict(sorted(bad.items()))


def _no_features(teacher: Teacher, video_NTHW: np.ndarray) -> dict[str, np.ndarray]:
    if not isinstance(teacher, FeatureTeacher):
        return {}
    return {"teacher_features": np.zeros((*video_NTHW.shape[:2], *teacher.shape), np.float16)}


def _targets(teacher: Teacher, prob: np.ndarray, rules: SlotRules) -> dict[str, np.ndarray]:
    """The columns that the students learn from: what they ask for, and nothing else."""
    columns = {"teacher_prob": quantise(pick_classes(prob, teacher.class_names, rules.classes))}
    if rules.tasks:
        phase, ef = beat_targets(pick_classes(prob, teacher.class_names, ("LV",)), fps=rules.fps)
        columns |= {f"teacher_{name}": column for name, column in (("phase", phase), ("ef", ef)) if name in rules.tasks}
    return columns


def _spans(actor: str, start: float, clips: int, frames: int, hits: int) -> list[StageSpan]:
    """What a block was for this actor: clips of so many frames each, of which some came out of the cache."""
    end = clock.now()
    spans = [StageSpan("teacher", actor, start, end, clips, clips * frames)]
    return spans + [StageSpan("teacher_cache", actor, start, end, hits, hits * frames)] * bool(hits)


def _hits(teacher: Teacher) -> int:
    return teacher.counts["hit"] if isinstance(teacher, CachedTeacher) else 0


def _keys(block: dict[str, np.ndarray]) -> list[ClipKey]:
    return [
        ClipKey(str(clip_id), int(index), int(start))
        for clip_id, index, start in zip(block["clip_id"], block["index"], block["window_start"], strict=True)
    ]


def _black_clip(slot: int, shape: tuple[int, ...]) -> VideoClip:
    return VideoClip(
        clip_id="",
        index=slot,
        seed=0,
        epoch=0,
        window_start=0,
        video=np.zeros(shape, np.uint8),
        fps=0.0,
        source="",
        domain="",
    )


def _replace_row(block: dict[str, np.ndarray], row: int, clip: VideoClip) -> None:
    block["video"][row] = clip.video
    for name in ("index", "clip_id", "epoch", "window_start", "sample_weight", "source", "domain"):
        block[name][row] = getattr(clip, name)
