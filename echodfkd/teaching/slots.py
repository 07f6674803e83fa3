"""Draw the clip of a slot, and replace clips that cannot be used. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from echodfkd.config.sections.augment import AugmentConfig
from echodfkd.core.errors import ClipError
from echodfkd.core.mask_codes import PROBABILITY, decode, encode, quantise
from echodfkd.core.records import Quarantined, VideoClip
from echodfkd.metrics.plausibility import stray_share
from echodfkd.models.students.sides import resize
from echodfkd.models.teachers.protocol import ClipKey, TeacherOutput
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.privacy import rejected
from echodfkd.sources.video.augment import augment_clip
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.routing import Router

Teach = Callable[[np.ndarray, Sequence[ClipKey]], TeacherOutput]
"""Makes the output for some shown clips: the classes, code and frame size that a run asks for."""


@dataclass(frozen=True)
class SlotRules:
    """How slots become clips: N slots, ``max_attempts`` indices for one of them, windows of (T, H, W).

    ``classes`` and ``tasks`` are those that the students of the run ask for, ``fps`` the windows' frame rate;
    ``confidence`` says whether an ensemble's confidence crosses to them, ``mask_code`` in which code masks do
    (`mask_codes`), ``stray_limit`` from which `stray_share` on a clip is quarantined. ``augment`` and ``seed`` say how
    clips are augmented, before the teacher or after it; either way before the stream is cut into the parts of the
    workers, and so alike for any number of them, after any restart, and for all students of the run. ``rejects``
    gives the reason if a clip may not be used (`sources.privacy`), else "". ``seen_shape`` (T, h, w) is that of the
    renderings that the teacher sees; None if it sees the students' clips.
    ``router`` says which members of an ensemble teach which clips.
    """

    plan_slots: int
    max_attempts: int
    video_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ("LV",)
    tasks: tuple[str, ...] = ()
    fps: float = 0.0
    confidence: bool = False
    mask_code: str = PROBABILITY
    stray_limit: float = 1.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    seed: int = 0
    rejects: Callable[[np.ndarray], str] | None = None
    seen_shape: tuple[int, int, int] | None = None
    router: Router = field(default_factory=Router)


@dataclass(frozen=True)
class Draw:
    """The clip that a slot drew, or None; the indices it has used up; and the fault if there is no clip."""

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
            clip = _augmented(_allowed(source.clip(index), rules), rules)
            return Draw(replace(clip, route=rules.router(clip)), attempt, quarantined, "")
        except ClipError as error:
            clip_id = getattr(error, "clip_id", f"{source.name}-i{index}")
            stage = getattr(error, "stage", "source")
            quarantined.append(Quarantined(slot, index, clip_id, stage, str(error)))
    fault = exhausted(slot, rules, quarantined[-1]) if quarantined else ""
    return Draw(None, attempt, quarantined, fault)


def _allowed(clip: VideoClip, rules: SlotRules) -> VideoClip:
    """The clip. Raises `ClipError` if it may not be used."""
    if rules.rejects is not None and not clip.pending and (reason := rules.rejects(clip.video)):
        raise rejected(reason, clip.clip_id)
    return clip


def _augmented(clip: VideoClip, rules: SlotRules) -> VideoClip:
    """The clip, augmented if that comes before the teacher; labels are dropped because they are not transformed."""
    video = clip.video if clip.pending else augmented_video(clip.video, rules, index=clip.index, epoch=clip.epoch)
    return clip if video is clip.video else replace(clip, video=video, truth_labels=None)


def augmented_video(video: np.ndarray, rules: SlotRules, *, index: int, epoch: int) -> np.ndarray:
    """The pixels of a clip that the teacher is shown."""
    if rules.augment.where != "before_teacher" or not rules.augment.is_on:
        return video
    return augment_clip(video, None, rules.augment, seed=rules.seed, index=index, epoch=epoch)[0]


def exhausted(slot: int, rules: SlotRules, last: Quarantined) -> str:
    """The sentence on a slot whose attempts are used up."""
    return (
        f"slot {slot} found no usable clip in {rules.max_attempts} attempts (data.max_attempts);"
        f" the last was {last.clip_id}: {last.reason}"
    )


def replace_faulty_clips(
    block: ClipBlock, output: TeacherOutput, teach: Teach, source: Callable[[], ClipSource], rules: SlotRules
) -> tuple[ClipBlock, TeacherOutput]:
    """Quarantine the clips at fault and replace them, until each slot has a clip that can be taught.

    Args:
        block: not changed.
        output: the teacher's, for the block; its arrays are overwritten in the rows that are replaced.
        teach: makes the output for a replacement.
        source: makes the source, called only if there is a clip to replace.
        rules: how slots become clips.

    Returns:
        The block with its replacements, and with ``fault`` if a slot found none; and the output for it, whose spans
        stay those of the first call.
    """
    bad, dropped = dict(output.faults), dict(output.dropped)
    quarantined: list[Quarantined] = []
    fault = ""
    while bad and not fault:
        for row, reason in list(bad.items()):
            slot = int(block.slot[row])
            found = Quarantined(slot, int(block.index[row]), block.clip_id[row], "teacher", reason)
            draw = draw_clip(source(), slot, int(block.attempts[row]), rules)
            quarantined += [found, *draw.quarantined]
            del bad[row]
            if draw.clip is None:
                fault = draw.fault or exhausted(slot, rules, found)
                continue
            block = block.with_clip(row, draw.clip, draw.attempts)
            anew = teach(block.shown[row : row + 1], block.keys()[row : row + 1])
            for name in ("masks", "confidence", "features"):
                if (rows := getattr(output, name)) is not None:
                    rows[row] = getattr(anew, name)[0]
            if anew.faults:
                bad[row] = anew.faults[0]
            if anew.dropped:
                dropped[row] = anew.dropped[0]
    block = replace(block, quarantined=(*block.quarantined, *quarantined), fault=fault or block.fault)
    return block, replace(output, faults=bad, dropped=dropped)


def refuse_stray(output: TeacherOutput, rules: SlotRules) -> TeacherOutput:
    """The output, in which a clip is at fault if too much of its left ventricle is no part of the largest one."""
    if rules.stray_limit >= 1.0:
        return output
    masks_NTHW = decode(output.masks[:, :, rules.classes.index("LV")]) > 0.5
    shares = {row: stray_share(mask) for row, mask in enumerate(masks_NTHW)}
    faults = {
        row: f"{share:.1%} of its left ventricle lies outside the part that is largest over the clip, more than"
        f" teacher.stray_limit ({rules.stray_limit:.1%})"
        for row, share in shares.items()
        if share > rules.stray_limit
    }
    output.masks[list(faults)] = encode(np.zeros(()), rules.mask_code)
    return replace(output, faults=dict(sorted({**faults, **output.faults}.items())))


def on_students_grid(output: TeacherOutput, rules: SlotRules) -> TeacherOutput:
    """The output with masks of the students' frames, if the teacher saw larger ones of the same field."""
    size = rules.video_shape[1:]
    if output.masks.shape[-2:] == size:
        return output
    confidence = None if output.confidence is None else quantise(_resized(output.confidence, size))
    return replace(output, masks=encode(_resized(output.masks, size), rules.mask_code), confidence=confidence)


def _resized(codes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Probabilities of these codes on frames of another size."""
    return resize(torch.from_numpy(decode(codes)), size).clamp_(0.0, 1.0).numpy()


def black_clip(slot: int, rules: SlotRules) -> VideoClip:
    """Stands for a slot that drew no usable clip."""
    return VideoClip(
        clip_id="",
        index=slot,
        seed=0,
        epoch=0,
        window_start=0,
        video=np.zeros(rules.video_shape, np.uint8),
        fps=0.0,
        source="",
        domain="",
        seen_video=None if rules.seen_shape is None else np.zeros(rules.seen_shape, np.uint8),
    )
