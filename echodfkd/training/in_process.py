"""Distillation in one process, on any iterator of clips: a run's slots, loop and objective, without Ray."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from echodfkd.config.file import config_from_dict
from echodfkd.config.rules.heads import check_teacher_gives
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ClipError, ConfigError, InputError, RunError
from echodfkd.core.records import DistillationBatch, VideoClip
from echodfkd.models.teachers.build import pick_device
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.storage.files import RunStorage
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.teaching.slots import SlotRules
from echodfkd.training.loop import WorkerContext, train

STUDENT = "student"
"""Name of the one student in the folder that `distil_clips` writes."""


class _Iterated:
    """A source that gives the next clip of an iterator, whichever index is asked for."""

    name = "iterator"
    notes: tuple[str, ...] = ()
    num_cases = 0

    def __init__(self, clips: Iterator[VideoClip], shape: tuple[int, ...], wanted: int) -> None:
        self._clips, self._shape, self._wanted = clips, shape, wanted
        self._given = 0

    def clip(self, index: int) -> VideoClip:
        """The next clip. Raises `ClipError` for one of another shape, `RunError` at the end of the iterator."""
        clip = next(self._clips, None)
        if clip is None:
            raise RunError(f"clips: the iterator ended after {self._given} clips, the plan has {self._wanted}")
        self._given += 1
        if clip.video.shape != self._shape:
            raise ClipError(f"clip {clip.clip_id} has the shape {clip.video.shape}, the first one had {self._shape}")
        return clip

    case = clip


def distil_clips(
    student: Mapping[str, Any],
    teacher: Teacher,
    clips: Iterable[VideoClip],
    out: str,
    *,
    options: Mapping[str, Any],
    report: Callable[[dict[str, Any]], None] = lambda numbers: None,
) -> str:
    """Train one student on clips that a teacher teaches on the way.

    Args:
        student: options of ``students.NAME``.
        teacher: of `echodfkd.teaching.build`.
        clips: square, all of the shape and rate of the first; ``train.steps`` * ``train.global_batch`` are drawn, and
            one more for each that cannot be used.
        out: an empty folder, or that of the same call: it goes on from its newest checkpoint and with fresh clips.
        options: sections of the run, such as ``{"train": {"steps": 200}}``; the window is that of the first clip.
        report: takes progress numbers (`echodfkd.training.progress.Progress.report`).

    Returns:
        The folder of the newest checkpoint.

    Raises:
        ConfigError: an option is unknown or impossible, or the teacher lacks a class.
        InputError: there is no clip, or it is not square.
        RunError: the iterator ended early, too many clips cannot be used, or the loss is not finite.
    """
    drawn = iter(clips)
    first = next(drawn, None)
    if first is None:
        raise InputError("clips: the iterator gave no clip")
    config = _config(student, first, options)
    check_teacher_gives(config, teacher.class_names)
    source = _Iterated(itertools.chain([first], drawn), first.video.shape, config.plan_slots)
    storage = RunStorage(out)
    storage.check_writable("out")
    device = pick_device("auto", "device")
    context = WorkerContext(rank=0, world_size=1, device=device, name="student", attempt="notebook", report=report)
    done = train(context, _batches(config, teacher, source), config, storage, teacher.teacher_id)
    return f"{out}/{done['published']}"


def _config(student: Mapping[str, Any], first: VideoClip, options: Mapping[str, Any]) -> RunConfig:
    T, H, W = first.video.shape
    if H != W:
        raise InputError(f"clips: {first.clip_id} has frames of {H} x {W} pixels, a student trains on square ones")
    train_options = {"checkpoint_every": 1_000_000, **options.get("train", {}), "engine": "plain"}
    window = {"frames": T, "fps": first.fps, "size": H}
    if options.get("source", {}).get("steering"):
        raise ConfigError("source.steering: set, but the clips are those of an iterator; remove it")
    return config_from_dict({**options, "window": window, "students": {STUDENT: dict(student)}, "train": train_options})


def _batches(config: RunConfig, teacher: Teacher, source: _Iterated) -> Iterator[DistillationBatch]:
    rules = SlotRules(
        config.plan_slots,
        config.data.max_attempts,
        (config.window.frames, config.window.size, config.window.size),
        classes=config.taught_classes,
        tasks=config.taught_tasks,
        fps=config.window.fps,
        mask_code=config.teacher.mask_code,
        stray_limit=config.teacher.stray_limit,
        augment=config.augment,
        seed=config.seed,
    )
    for start in itertools.count(0, config.micro_batch):
        slots = range(start, start + config.micro_batch)
        block = make_block(source, slots, rules, actor="clips")
        yield teach_block(teacher, block, lambda: source, rules, actor="teacher")
