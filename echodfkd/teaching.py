"""What one source task and one teacher actor do, without Ray: clips of some slots, their soft masks, and the
replacement of what is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd import clock
from echodfkd.errors import ClipError
from echodfkd.metrics.beat import beat_targets
from echodfkd.models.teacher import ClipKey, Teacher, masks_of_clips, masks_shape, pick_classes, quantise
from echodfkd.records import Quarantined, StageSpan, VideoClip, append_bookkeeping, clip_columns
from echodfkd.synthesis.source import ClipSource
from echodfkd.teachers.cache import CachedTeacher


@dataclass(frozen=True)
class SlotRules:
    """How slots become clips: N slots, ``max_attempts`` indices for one of them, windows of (T, H, W).

    ``classes`` and ``tasks`` are what the students of the run ask for, ``fps`` the windows' frame rate.
    """

    plan_slots: int
    max_attempts: int
    video_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ("LV",)
    tasks: tuple[str, ...] = ()
    fps: float = 0.0


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
        more classes are asked for, and with ``teacher_phase`` and ``teacher_ef`` where they are (see `records`).

    Raises:
        RunError: the teacher returned another shape than it was given.
    """
    start, hits, block = clock.now(), _hits(teacher), dict(block)
    attempts = block.pop("attempts").copy()
    if str(block["fault"][0]):
        return {**block, **_targets(teacher, np.zeros(masks_shape(teacher, block["video"]), np.float32), rules)}
    prob, bad = masks_of_clips(teacher, block["video"], _keys(block))
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
                again, faults = masks_of_clips(teacher, block["video"][row : row + 1], _keys(block)[row : row + 1])
                prob[row], bad[row] = 0.0 if faults else again[0], faults.get(0, "")
        bad = {row: reason for row, reason in bad.items() if reason}
    spans = _spans(actor, start, len(prob), prob.shape[1], _hits(teacher) - hits)
    return append_bookkeeping({**block, **_targets(teacher, prob, rules)}, quarantined, spans, fault)


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
            return _Draw(source.clip(index), attempt, quarantined, "")
        except ClipError as error:
            clip_id = getattr(error, "clip_id", f"{source.name}-i{index}")
            quarantined.append(Quarantined(slot, index, clip_id, "source", str(error)))
    fault = _exhausted(slot, rules, quarantined[-1]) if quarantined else ""
    return _Draw(None, attempt, quarantined, fault)


def _exhausted(slot: int, rules: SlotRules, last: Quarantined) -> str:
    return (
        f"slot {slot} found no usable clip in {rules.max_attempts} attempts (data.max_attempts);"
        f" the last was {last.clip_id}: {last.reason}"
    )


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
