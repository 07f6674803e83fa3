"""Fake teachers for tests, and short ways to ask any teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from echodfkd.core.records import Block, DistillationBatch, StageSpan, VideoClip
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.teaching.clip_block import ClipBlock


class FloatTeacher(Teacher):
    """A fake teacher by its float probabilities (`prob`) and the clips that it has no mask of (`lost_rows`)."""

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        """(N, T, C, H, W); of one class, (N, T, H, W) will do."""
        raise NotImplementedError

    def lost_rows(self, clips: Sequence[ClipKey]) -> dict[int, str]:
        """Rows without a mask, each with the reason."""
        return {}

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        prob = self.prob(video_NTHW)
        prob = prob[:, :, None] if prob.ndim == 4 else prob
        return self.output_of(prob, video_NTHW, classes=classes, code=code, faults=self.lost_rows(clips))


def masks_of(
    teacher: Teacher, video_NTHW: np.ndarray, clips: Sequence[ClipKey] = (), code: str | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Masks (N, T, C, H, W) of all classes, and the faults."""
    output = teacher.teach(video_NTHW, clips, code=code)
    return output.masks, dict(output.faults)


def lv_prob(teacher: Teacher, video_NTHW: np.ndarray) -> np.ndarray:
    """Probability of the left ventricle, (N, T, H, W)."""
    return teacher.teach(video_NTHW, classes=("LV",)).masks[:, :, 0]


def taught_batch(
    clips: Sequence[VideoClip], slots: Sequence[int], spans: Sequence[StageSpan] = ()
) -> DistillationBatch:
    """The batch of these clips, with their pixels as the masks of one class."""
    block = ClipBlock.of(clips, slots=slots, attempts=[1] * len(clips), spans=spans)
    values = {field.name: getattr(block, field.name) for field in dataclasses.fields(Block)}
    return DistillationBatch(**values, teacher_prob=block.video[:, :, None])
