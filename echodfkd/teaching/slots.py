"""Which clip a slot of the plan becomes, and what takes the place of one that cannot be used. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from echodfkd.config.sections.augment import AugmentConfig
from echodfkd.core.errors import ClipError
from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.core.records import Quarantined, VideoClip
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.augment import augment_clip
from echodfkd.teaching.members import Taught


@dataclass(frozen=True)
class SlotRules:
    """How slots become clips: N slots, ``max_attempts`` indices for one of them, windows of (T, H, W).

    ``classes`` and ``tasks`` are what the students of the run ask for, ``fps`` the windows' frame rate, ``confidence``
    whether an ensemble's crosses to them, ``mask_code`` how masks do (`mask_codes`). ``augment`` and ``seed`` say how
    clips are varied, before the teacher or after it. Both places are before the stream is cut into the parts of the
    workers, and so the same for any number of them, after any restart, and for all students of the run.
    """

    plan_slots: int
    max_attempts: int
    video_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ("LV",)
    tasks: tuple[str, ...] = ()
    fps: float = 0.0
    confidence: bool = False
    mask_code: str = PROBABILITY
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """What a slot drew: a clip or, where none was usable, why; and the indices that it has used up on the way."""

    clip: VideoClip | None
    attempts: int
    quarantined: list[Quarantined]
    fault: str


def draw_clip(source: ClipSource, slot: int, attempt: int, rules: SlotRules) -> Draw:
    """The first usable clip among the indices slot + a * N, from attempt ``a`` on."""
    quarantined: list[Quarantined] = []
    while attempt < rules.max_attempts:
        index = slot + attempt * rules.plan_slots
        attempt += 1
        try:
            return Draw(_varied(source.clip(index), rules), attempt, quarantined, "")
        except ClipError as error:
            clip_id = getattr(error, "clip_id", f"{source.name}-i{index}")
            quarantined.append(Quarantined(slot, index, clip_id, "source", str(error)))
    fault = _exhausted(slot, rules, quarantined[-1]) if quarantined else ""
    return Draw(None, attempt, quarantined, fault)


def _varied(clip: VideoClip, rules: SlotRules) -> VideoClip:
    """The clip as the teacher shall see it. Its truth stays behind, since it does not move with the pixels."""
    if rules.augment.where != "before_teacher" or not rules.augment.is_on:
        return clip
    video, _ = augment_clip(clip.video, None, rules.augment, seed=rules.seed, index=clip.index, epoch=clip.epoch)
    return replace(clip, video=video, truth_labels=None)


def _exhausted(slot: int, rules: SlotRules, last: Quarantined) -> str:
    return (
        f"slot {slot} found no usable clip in {rules.max_attempts} attempts (data.max_attempts);"
        f" the last was {last.clip_id}: {last.reason}"
    )


@dataclass(frozen=True)
class Settled:
    """A block without ``attempts``, masks of its clips, what was quarantined, and "" or why a slot has no clip."""

    block: dict[str, np.ndarray]
    taught: Taught
    quarantined: list[Quarantined]
    fault: str


def settle(
    block: dict[str, np.ndarray],
    taught: Taught,
    teach: Callable[[np.ndarray, Sequence[ClipKey]], Taught],
    source: Callable[[], ClipSource],
    rules: SlotRules,
) -> Settled:
    """Quarantine the clips at fault and put others in their places, until each slot has one that can be taught.

    Args:
        block: columns of `clip_columns`; not changed.
        taught: its masks; rows of its arrays are overwritten.
        teach: makes the masks of a clip that takes another's place.
        source: makes the source, called only where there is such a clip.
        rules: how slots become clips.
    """
    block = dict(block)
    attempts = block.pop("attempts").copy()
    bad, dropped = dict(taught.faults), dict(taught.dropped)
    if bad:
        block = {name: column.copy() for name, column in block.items()}
    quarantined: list[Quarantined] = []
    fault = ""
    while not fault and bad:
        for row, reason in list(bad.items()):
            slot = int(block["slot"][row])
            found = Quarantined(slot, int(block["index"][row]), str(block["clip_id"][row]), "teacher", reason)
            draw = draw_clip(source(), slot, int(attempts[row]), rules)
            attempts[row] = draw.attempts
            quarantined += [found, *draw.quarantined]
            if draw.clip is None:
                fault = draw.fault or _exhausted(slot, rules, found)
            else:
                _replace_row(block, row, draw.clip)
                again = teach(block["video"][row : row + 1], clip_keys(block)[row : row + 1])
                for name, rows in taught.arrays.items():
                    rows[row] = again.arrays[name][0]
                bad[row] = again.faults.get(0, "")
                if again.dropped:
                    dropped[row] = again.dropped[0]
        bad = {row: reason for row, reason in bad.items() if reason}
    return Settled(block, Taught(taught.arrays, bad, dropped), quarantined, fault)


def clip_keys(block: dict[str, np.ndarray]) -> list[ClipKey]:
    """Which clips a block holds."""
    return [
        ClipKey(str(clip_id), int(index), int(start))
        for clip_id, index, start in zip(block["clip_id"], block["index"], block["window_start"], strict=True)
    ]


def black_clip(slot: int, shape: tuple[int, ...]) -> VideoClip:
    """Stands for a slot that drew no usable clip."""
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
