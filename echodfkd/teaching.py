"""What one source task and one teacher actor do, without Ray: clips of some slots, their soft masks, and the
replacement of what is at fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd.errors import ClipError, RunError
from echodfkd.models.teacher import Teacher
from echodfkd.records import Quarantined, StageSpan, VideoClip, append_bookkeeping, clip_columns
from echodfkd.synthesis.source import ClipSource


def quantise(prob: np.ndarray) -> np.ndarray:
    """round(255 * p) as uint8: the one quantisation step of soft masks (largest error 1/510).

    The authors' code floors instead, which biases every mask by half a level.
    """
    return np.rint(prob * 255.0).astype(np.uint8)


@dataclass(frozen=True)
class SlotRules:
    """How slots become clips: N slots, ``max_attempts`` indices for one of them, windows of (T, H, W)."""

    plan_slots: int
    max_attempts: int
    video_shape: tuple[int, int, int]


def make_block(source: ClipSource, slots: Sequence[int], rules: SlotRules, *, actor: str) -> dict[str, np.ndarray]:
    """Make the clips of some slots: the work of one source task.

    Returns the columns of `clip_columns`. Indices at fault are quarantined and replaced (see `records`);
    a slot without any usable clip leaves a sentence in ``fault`` and a black video in its place.
    """
    start = time.time()
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
        spans=[StageSpan("source", actor, start, time.time(), len(usable), frames)],
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
    """Add soft masks to a block; a clip whose masks are not finite is quarantined and replaced.

    Args:
        teacher: makes probabilities.
        block: columns of `clip_columns`; not changed.
        source: makes the source, called only where a clip must be replaced.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.

    Returns:
        The block's columns with ``teacher_prob`` uint8 (N, T, H, W), without ``attempts``.

    Raises:
        RunError: the teacher returned another shape than it was given.
    """
    start = time.time()
    block = dict(block)
    attempts = block.pop("attempts").copy()
    if str(block["fault"][0]):
        return {**block, "teacher_prob": np.zeros(block["video"].shape, np.uint8)}
    prob = _checked_masks(teacher, block["video"])
    quarantined: list[Quarantined] = []
    fault = ""
    while not fault and len(bad := np.flatnonzero(~np.isfinite(prob).all(axis=(1, 2, 3)))):
        block = {name: column.copy() for name, column in block.items()}
        for row in map(int, bad):
            slot = int(block["slot"][row])
            reason = f"the teacher {teacher.teacher_id} gave a mask that is not finite"
            found = Quarantined(slot, int(block["index"][row]), str(block["clip_id"][row]), "teacher", reason)
            draw = _draw(source(), slot, int(attempts[row]), rules)
            attempts[row] = draw.attempts
            quarantined += [found, *draw.quarantined]
            if draw.clip is None:
                fault = draw.fault or _exhausted(slot, rules, found)
                prob[row] = 0.0
            else:
                _replace_row(block, row, draw.clip)
                prob[row] = _checked_masks(teacher, block["video"][row : row + 1])[0]
    span = StageSpan("teacher", actor, start, time.time(), len(prob), prob.shape[0] * prob.shape[1])
    return append_bookkeeping({**block, "teacher_prob": quantise(prob)}, quarantined, [span], fault)


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


def _checked_masks(teacher: Teacher, video_NTHW: np.ndarray) -> np.ndarray:
    prob = teacher.soft_masks(video_NTHW)
    if prob.shape != video_NTHW.shape:
        raise RunError(
            f"the teacher {teacher.teacher_id} returned masks of shape {prob.shape} for video {video_NTHW.shape}"
        )
    return prob


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
