"""Several teachers as one: their masks fused class by class, in one process.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.models.teachers.protocol import ClipKey, Teacher
from echodfkd.teaching.members import Fused, Fusion, MemberMasks, MemberRule


@dataclass(frozen=True)
class Member:
    """One teacher, its name in the config, its share, and whether a clip may be taught without it."""

    name: str
    teacher: Teacher
    weight: float
    required: bool = True


class Ensemble:
    """A `Teacher` (and `ClipTeacher`) that fuses others; a class is fused over those members that give it.

    Args:
        members: at least one.
        method: one of `models.fusion.FUSIONS`.
        code: of `mask_codes.MASK_CODES`: what the members' masks are rounded to.
    """

    def __init__(self, members: Sequence[Member], *, method: str, code: str = PROBABILITY) -> None:
        self.members = list(members)
        rules = tuple(MemberRule(one.name, one.weight, one.required) for one in members)
        self.fusion = Fusion(method, rules, code)
        names = dict.fromkeys(name for member in self.members for name in member.teacher.class_names[1:])
        self.class_names = ("background", *names)
        self.teacher_id = self.fusion.teacher_id([one.teacher.teacher_id for one in self.members])

    def teach(self, video_NTHW: np.ndarray, clips: Sequence[ClipKey], wanted: Sequence[str]) -> Fused:
        """The wanted classes of some clips. Raises `RunError` as `Fusion.fuse` does."""
        said = [MemberMasks.of(one.teacher, video_NTHW, clips, wanted, self.fusion.code) for one in self.members]
        return self.fusion.fuse(said, wanted)

    def clip_masks(self, video_NTHW: np.ndarray, clips: Sequence[ClipKey]) -> tuple[np.ndarray, dict[int, str]]:
        """See `ClipTeacher.clip_masks`. A clip that a required member has no mask of has none at all."""
        taught = self.teach(video_NTHW, clips, self.class_names[1:])
        return self._shaped(taught.prob), taught.faults

    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """See `Teacher.soft_masks`. NaN where `clip_masks` would name a fault."""
        teachers = [_ByPixels(one.teacher) for one in self.members]
        said = [MemberMasks.of(one, video_NTHW, (), self.class_names[1:], self.fusion.code) for one in teachers]
        taught = self.fusion.fuse(said, self.class_names[1:])
        taught.prob[list(taught.faults)] = np.nan
        return self._shaped(taught.prob)

    def _shaped(self, prob_NTCHW: np.ndarray) -> np.ndarray:
        return prob_NTCHW[:, :, 0] if len(self.class_names) == 2 else prob_NTCHW


class _ByPixels:
    """A teacher that is not told which clips it sees."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher_id, self.class_names, self.soft_masks = teacher.teacher_id, teacher.class_names, teacher.soft_masks
