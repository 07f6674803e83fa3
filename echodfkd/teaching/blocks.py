"""The work of one source task and of one teacher actor, without Ray: make the clips of some slots, add soft masks.

An ensemble whose members have pools of their own teaches in stages: `member_block` in each pool, `fuse_block` in the
last one. Any other teacher has the one stage `teach_block`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from echodfkd.core import clock
from echodfkd.core.errors import RunError
from echodfkd.core.mask_codes import MASK_CODES, PROBABILITY, decode, encode
from echodfkd.core.records import Block, DistillationBatch, DroppedMember, StageSpan
from echodfkd.metrics.beat import beat_targets
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.augment import augment_clip
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.members import Fusion, MemberOutput
from echodfkd.teaching.slots import (
    SlotRules,
    Teach,
    black_clip,
    draw_clip,
    on_students_grid,
    refuse_stray,
    replace_faulty_clips,
)


def make_block(source: ClipSource, slots: Sequence[int], rules: SlotRules, *, actor: str) -> ClipBlock:
    """Make the clips of some slots: the work of one source task.

    Indices at fault are quarantined and replaced (see `records`); a slot without any usable clip leaves a sentence in
    ``fault`` and a black video in its place.
    """
    start = clock.now()
    draws = [draw_clip(source, slot, 0, rules) for slot in slots]
    usable = [draw.clip for draw in draws if draw.clip is not None]
    assert all(clip.video.shape == rules.video_shape for clip in usable), "a source must cut its windows"
    clips = [draw.clip or black_clip(slot, rules) for slot, draw in zip(slots, draws, strict=True)]
    frames = sum(len(clip.video) for clip in usable)
    return ClipBlock.of(
        clips,
        slots=slots,
        attempts=[draw.attempts for draw in draws],
        quarantined=[row for draw in draws for row in draw.quarantined],
        spans=[StageSpan("source", actor, start, clock.now(), len(usable), frames)],
        fault=next((draw.fault for draw in draws if draw.fault), ""),
    )


def teach_block(
    teacher: Teacher, block: ClipBlock, source: Callable[[], ClipSource], rules: SlotRules, *, actor: str
) -> DistillationBatch:
    """Add soft masks to a block; a clip whose masks are missing or not finite is quarantined and replaced.

    Args:
        teacher: makes the masks.
        block: not changed.
        source: makes the source, called only if a clip must be replaced.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.

    Raises:
        RunError: the teacher failed, e.g. it returned another shape than it was given.
    """
    if block.fault:
        return _without_masks(block, rules, teacher.feature_shape)
    start, teach = clock.now(), _teach_by(lambda: teacher, rules)
    block, output = replace_faulty_clips(block, teach(block.shown, block.keys()), teach, source, rules)
    return _taught(block, output, rules, actor=actor, start=start)


def member_block(name: str, teacher: Teacher, block: ClipBlock, rules: SlotRules, *, actor: str) -> ClipBlock:
    """Add the output of one member of an ensemble to a block, for `fuse_block`.

    Args:
        name: of the member.
        teacher: the member.
        block: not changed.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.
    """
    classes, code = rules.classes, rules.mask_code
    if block.fault:
        output = MemberOutput.empty(teacher, block.shown, classes=classes, code=code)
    else:
        output = MemberOutput.of(name, teacher, block.shown, block.keys(), classes=classes, code=code)
    spans = (*block.spans, *_named(output.spans, actor))
    return dataclasses.replace(block, members={**block.members, name: output}, spans=spans)


def fuse_block(
    fusion: Fusion,
    block: ClipBlock,
    ensemble: Callable[[], Teacher],
    source: Callable[[], ClipSource],
    rules: SlotRules,
    *,
    actor: str,
    teacher_id: str,
) -> DistillationBatch:
    """Fuse the members' outputs for a block into the same result as `teach_block`.

    Args:
        fusion: how.
        block: with the output of each member; not changed.
        ensemble: loads the whole ensemble, called only if a clip must be replaced: its replacement has to be taught.
        source: makes the source, called likewise.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.
        teacher_id: of the ensemble that the run knows.

    Raises:
        RunError: a required member raised an explained error, or the members are others than those of that ensemble.
    """
    if block.fault:
        return _without_masks(block, rules)
    start, outputs = clock.now(), [block.members[rule.name] for rule in fusion.members]
    _check_members(fusion, outputs, teacher_id)
    fused = on_students_grid(fusion.fuse(outputs, rules.classes, rules.mask_code), rules)
    fused = refuse_stray(fused, rules)
    block, output = replace_faulty_clips(block, fused, _teach_by(ensemble, rules), source, rules)
    return _taught(block, output, rules, actor=actor, start=start)


def _teach_by(teacher: Callable[[], Teacher], rules: SlotRules) -> Teach:
    def teach(video_NTHW: np.ndarray, clips: Sequence[ClipKey]) -> TeacherOutput:
        output = teacher().teach(video_NTHW, clips, classes=rules.classes, code=rules.mask_code)
        return refuse_stray(on_students_grid(output, rules), rules)

    return teach


def _check_members(fusion: Fusion, outputs: Sequence[MemberOutput], teacher_id: str) -> None:
    if fusion.teacher_id([one.teacher_id for one in outputs]) != teacher_id:
        loaded = ", ".join(f"{rule.name} {one.teacher_id}" for rule, one in zip(fusion.members, outputs, strict=True))
        raise RunError(
            f"teacher.members: the nodes that taught a block have {loaded}, which is not the {teacher_id} that the"
            " driver loaded; put the same files on every node"
        )


def _taught(
    block: ClipBlock, output: TeacherOutput, rules: SlotRules, *, actor: str, start: float
) -> DistillationBatch:
    """The batch of a block and its masks, augmented if that comes after the teacher; with the spans of this stage."""
    N, T = block.video.shape[:2]
    own = StageSpan("teacher", actor, start, clock.now(), N, N * T)
    block = dataclasses.replace(block, spans=(*block.spans, own, *_named(output.spans, actor)))
    batch = _batch(block, output, rules)
    if rules.augment.where == "after_teacher" and rules.augment.is_on:
        batch = _augmented(batch, rules)
    return batch


def _named(spans: Sequence[StageSpan], actor: str) -> list[StageSpan]:
    return [dataclasses.replace(span, actor=actor) for span in spans]


def _batch(block: ClipBlock, output: TeacherOutput, rules: SlotRules) -> DistillationBatch:
    """The block with the targets that the students ask for."""
    phase, ef = None, None
    if rules.tasks:
        phase, ef = beat_targets(decode(output.masks[:, :, rules.classes.index("LV")]), fps=rules.fps)
    dropped = tuple(
        DroppedMember(int(block.slot[row]), int(block.index[row]), block.clip_id[row], member, reason)
        for row, members in sorted(output.dropped.items())
        for member, reason in members.items()
    )
    return DistillationBatch(
        **{field.name: getattr(block, field.name) for field in dataclasses.fields(Block)},
        teacher_prob=output.masks,
        teacher_confidence=output.confidence if rules.confidence else None,
        teacher_features=output.features,
        teacher_phase=phase if "phase" in rules.tasks else None,
        teacher_ef=ef if "ef" in rules.tasks else None,
        dropped=dropped,
    )


def _augmented(batch: DistillationBatch, rules: SlotRules) -> DistillationBatch:
    """Each clip augmented with its masks and their confidence. Phase and EF stay as they were."""
    C = batch.teacher_prob.shape[2]
    videos, masks, confidence = [], [], []
    for row, video in enumerate(batch.video):
        planes = decode(batch.teacher_prob[row])
        if batch.teacher_confidence is not None:
            planes = np.concatenate([planes, decode(batch.teacher_confidence[row])], axis=1)
        identity = {"index": int(batch.index[row]), "epoch": int(batch.epoch[row])}
        seen, moved = augment_clip(video, planes, rules.augment, seed=rules.seed, **identity)
        assert moved is not None
        videos.append(seen)
        masks.append(encode(moved[:, :C], rules.mask_code))
        confidence.append(encode(moved[:, C:], PROBABILITY))
    return dataclasses.replace(
        batch,
        video=np.stack(videos),
        teacher_prob=np.stack(masks),
        teacher_confidence=None if batch.teacher_confidence is None else np.stack(confidence),
    )


def _without_masks(
    block: ClipBlock, rules: SlotRules, feature_shape: tuple[int, int, int] | None = None
) -> DistillationBatch:
    """A placeholder for a block with a fault, with the columns of a normal one: Arrow asks for one schema a stream."""
    N, T, H, W = block.video.shape
    shape = (N, T, len(rules.classes), H, W)
    return _batch(
        block,
        TeacherOutput(
            np.full(shape, encode(np.zeros(()), rules.mask_code), MASK_CODES[rules.mask_code]),
            confidence=np.zeros(shape, np.uint8),
            features=None if feature_shape is None else np.zeros((N, T, *feature_shape), np.float16),
        ),
        rules,
    )
