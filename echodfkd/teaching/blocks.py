"""What one source task and one teacher actor do, without Ray: clips of some slots, their soft masks, and the
replacement of what is at fault. An ensemble teaches in stages, which may run in one actor or in a pool each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from echodfkd.core import clock
from echodfkd.core.errors import RunError
from echodfkd.core.mask_codes import PROBABILITY, decode, encode
from echodfkd.core.records import DroppedMember, StageSpan, append_bookkeeping, clip_columns, json_column
from echodfkd.metrics.beat import beat_targets
from echodfkd.models.teachers.protocol import ClipKey, Teacher
from echodfkd.models.teachers.teacher_features import FeatureTeacher
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.augment import augment_clip
from echodfkd.teaching.cache import CachedTeacher
from echodfkd.teaching.ensemble import Ensemble
from echodfkd.teaching.frame_memory import FrameMemory
from echodfkd.teaching.members import Fused, Fusion, MemberMasks, Taught, teach_alone, without_members
from echodfkd.teaching.slots import Settled, SlotRules, black_clip, clip_keys, draw_clip, settle


def make_block(source: ClipSource, slots: Sequence[int], rules: SlotRules, *, actor: str) -> dict[str, np.ndarray]:
    """Make the clips of some slots: the work of one source task.

    Returns the columns of `clip_columns`. Indices at fault are quarantined and replaced (see `records`);
    a slot without any usable clip leaves a sentence in ``fault`` and a black video in its place.
    """
    start = clock.now()
    draws = [draw_clip(source, slot, 0, rules) for slot in slots]
    usable = [draw.clip for draw in draws if draw.clip is not None]
    assert all(clip.video.shape == rules.video_shape for clip in usable), "a source must cut its windows"
    clips = [draw.clip or black_clip(slot, rules.video_shape) for slot, draw in zip(slots, draws, strict=True)]
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
        teacher: makes probabilities. An ensemble is `member_block` after `member_block`, and `fuse_block`.
        block: columns of `clip_columns`; not changed.
        source: makes the source, called only where a clip must be replaced.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.

    Returns:
        The block's columns without ``attempts``, with ``teacher_prob`` (N, T, H, W), or (N, T, C, H, W) where more
        classes are asked for, in the rules' code, and with ``teacher_confidence``, ``teacher_features``,
        ``teacher_phase`` and ``teacher_ef`` where they are (see `records`); of an ensemble also with ``dropped``.

    Raises:
        RunError: the teacher returned another shape than it was given.
    """
    if isinstance(teacher, Ensemble):
        for member in teacher.members:
            block = member_block(member.name, member.teacher, block, rules, actor=actor)
        known = teacher.teacher_id
        return fuse_block(teacher.fusion, block, lambda: teacher, source, rules, actor=actor, teacher_id=known)
    start, before = clock.now(), _lookups(teacher)
    if str(block["fault"][0]):
        return _without_masks(block, rules, features=teacher.shape if isinstance(teacher, FeatureTeacher) else None)

    def teach(video: np.ndarray, clips: Sequence[ClipKey]) -> Taught:
        return teach_alone(teacher, video, clips, rules.classes, rules.mask_code)

    settled = settle(block, teach(block["video"], clip_keys(block)), teach, source, rules)
    spans = _spans("", actor, start, settled.block["video"], _lookups(teacher) - before)
    return append_bookkeeping(_finished(settled, rules), settled.quarantined, spans, settled.fault)


def member_block(
    name: str, teacher: Teacher, block: dict[str, np.ndarray], rules: SlotRules, *, actor: str
) -> dict[str, np.ndarray]:
    """Add what one member of an ensemble says of a block's clips, for `fuse_block`: its masks in 8 bits.

    Args:
        name: of the member.
        teacher: the member.
        block: columns of `clip_columns`, and of other members; not changed.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.
    """
    start, before = clock.now(), _lookups(teacher)
    if str(block["fault"][0]):
        none = MemberMasks.nothing(teacher, block["video"], rules.classes, rules.mask_code)
        return {**block, **none.to_columns(name)}
    said = MemberMasks.of(teacher, block["video"], clip_keys(block), rules.classes, rules.mask_code)
    spans = _spans(f".{name}", actor, start, block["video"], _lookups(teacher) - before)
    return append_bookkeeping({**block, **said.to_columns(name)}, [], spans, "")


def fuse_block(
    fusion: Fusion,
    block: dict[str, np.ndarray],
    ensemble: Callable[[], Ensemble],
    source: Callable[[], ClipSource],
    rules: SlotRules,
    *,
    actor: str,
    teacher_id: str,
) -> dict[str, np.ndarray]:
    """Make one teacher's masks of what the members say of a block: what `teach_block` gives.

    Args:
        fusion: how.
        block: columns of `clip_columns` and of each member's `member_block`; not changed.
        ensemble: gives the members themselves, called only where a clip must be replaced: it has to be taught anew.
        source: likewise, the source.
        rules: as in `make_block`.
        actor: name of this actor in the timeline.
        teacher_id: of the ensemble that the run knows.

    Raises:
        RunError: a required member raised an explained error, or the members are others than those of that ensemble.
    """
    start = clock.now()
    said = [MemberMasks.from_columns(block, rule.name) for rule in fusion.members]
    block = without_members(block)
    if str(block["fault"][0]):
        return {**_without_masks(block, rules), "dropped": json_column([], len(block["slot"]))}
    _check_members(fusion, said, teacher_id)

    def teach(video: np.ndarray, clips: Sequence[ClipKey]) -> Taught:
        return ensemble().teach(video, clips, rules.classes).rounded(rules.mask_code)

    settled = settle(block, fusion.fuse(said, rules.classes).rounded(rules.mask_code), teach, source, rules)
    block = settled.block
    dropped = [
        DroppedMember(int(block["slot"][row]), int(block["index"][row]), str(block["clip_id"][row]), member, reason)
        for row, members in sorted(settled.taught.dropped.items())
        for member, reason in members.items()
    ]
    spans = _spans("", actor, start, block["video"], Counter())  # the few clips taught anew are not looked up above
    columns = {**_finished(settled, rules), "dropped": json_column(dropped, len(block["slot"]))}
    return append_bookkeeping(columns, settled.quarantined, spans, settled.fault)


def _check_members(fusion: Fusion, said: Sequence[MemberMasks], teacher_id: str) -> None:
    if fusion.teacher_id([one.teacher_id for one in said]) != teacher_id:
        loaded = ", ".join(f"{rule.name} {one.teacher_id}" for rule, one in zip(fusion.members, said, strict=True))
        raise RunError(
            f"teacher.members: the nodes that taught a block have {loaded}, which is not the {teacher_id} that the"
            " driver loaded; put the same files on every node"
        )


def _finished(settled: Settled, rules: SlotRules) -> dict[str, np.ndarray]:
    """The block with what the students learn from, varied where that comes after the teacher."""
    columns = {**settled.block, **_targets(settled.taught, rules)}
    if rules.augment.where == "after_teacher" and rules.augment.is_on:
        columns |= _augmented(columns, rules)
    return columns


def _augmented(taught: dict[str, np.ndarray], rules: SlotRules) -> dict[str, np.ndarray]:
    """The columns of pixels, each clip varied with its masks and their confidence. Phase and EF stay what they were."""
    videos: list[np.ndarray] = []
    planes = [name for name in ("teacher_prob", "teacher_confidence") if name in taught]
    moved: dict[str, list[np.ndarray]] = {name: [] for name in planes}
    for row, video in enumerate(taught["video"]):
        parts = [decode(taught[name][row]).reshape(len(video), -1, *video.shape[-2:]) for name in planes]
        prob = np.concatenate(parts, axis=1)
        who = {"index": int(taught["index"][row]), "epoch": int(taught["epoch"][row])}
        seen, masks = augment_clip(video, prob, rules.augment, seed=rules.seed, **who)
        assert masks is not None
        videos.append(seen)
        for name, part in zip(planes, np.split(masks, len(planes), axis=1), strict=True):
            code = rules.mask_code if name == "teacher_prob" else PROBABILITY
            moved[name].append(encode(part, code).reshape(taught[name][row].shape))
    return {"video": np.stack(videos), **{name: np.stack(rows) for name, rows in moved.items()}}


def _targets(taught: Taught, rules: SlotRules) -> dict[str, np.ndarray]:
    """The columns that the students learn from: what they ask for, and nothing else."""
    columns = {"teacher_prob": _shaped(taught.codes)}
    if rules.confidence:
        columns["teacher_confidence"] = _shaped(taught.arrays["confidence"])
    if "features" in taught.arrays:
        columns["teacher_features"] = taught.arrays["features"]
    if rules.tasks:
        phase, ef = beat_targets(decode(taught.codes[:, :, rules.classes.index("LV")]), fps=rules.fps)
        columns |= {f"teacher_{name}": column for name, column in (("phase", phase), ("ef", ef)) if name in rules.tasks}
    return columns


def _shaped(values_NTCHW: np.ndarray) -> np.ndarray:
    """(N, T, H, W) where there is one class."""
    return values_NTCHW[:, :, 0] if values_NTCHW.shape[2] == 1 else values_NTCHW


def _without_masks(
    block: dict[str, np.ndarray], rules: SlotRules, features: tuple[int, int, int] | None = None
) -> dict[str, np.ndarray]:
    """A block that carries a fault, with the columns of the others: those of one stream must fit together in Arrow."""
    N, T, H, W = block["video"].shape
    none = np.zeros((N, T, len(rules.classes), H, W), np.float32)
    empty = Fused(none, none, {}, {}).rounded(rules.mask_code)
    rest = {name: column for name, column in block.items() if name != "attempts"}
    shown = {} if features is None else {"features": np.zeros((N, T, *features), np.float16)}
    return {**rest, **_targets(Taught({**empty.arrays, **shown}), rules)}


def _spans(member: str, actor: str, start: float, video_NTHW: np.ndarray, lookups: Counter[str]) -> list[StageSpan]:
    """What a block was for this actor, which of its clips' masks came out of a cache or went into it, and how many of
    its frames' were remembered.

    ``member`` is "" for a teacher of its own and the last stage of an ensemble, else a dot and the member's name.
    """
    end, (clips, frames) = clock.now(), video_NTHW.shape[:2]
    spans = [StageSpan(f"teacher{member}", actor, start, end, clips, clips * frames)]
    for stage, kind in (("teacher_cache", "hit"), ("teacher_uncached", "miss")):
        if found := lookups[kind]:
            size = lookups[f"{kind}_bytes"]
            spans.append(StageSpan(f"{stage}{member}", actor, start, end, found, found * frames, size))
    if remembered := lookups["remembered"]:
        spans.append(StageSpan(f"teacher_remembered{member}", actor, start, end, 0, remembered))
    return spans


def _lookups(teacher: Teacher) -> Counter[str]:
    found: Counter[str] = Counter()
    if isinstance(teacher, CachedTeacher):
        found, teacher = teacher.lookups(), teacher.teacher
    if isinstance(teacher, FrameMemory):
        found["remembered"] = teacher.remembered
    return found
