"""Several teachers as one: their masks fused class by class, in one process.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd.models.fusion import fuse_by_name
from echodfkd.models.teacher import ClipKey, Teacher, masks_of_clips, with_class_axis


@dataclass(frozen=True)
class Member:
    """One teacher, its name in the config, and its share."""

    name: str
    teacher: Teacher
    weight: float


class Ensemble:
    """A `Teacher` (and `ClipTeacher`) that fuses others; a class is fused over those members that give it.

    Args:
        members: at least one.
        method: one of `models.fusion.FUSIONS`.
    """

    def __init__(self, members: Sequence[Member], *, method: str) -> None:
        self.members = list(members)
        self.method = method
        names = dict.fromkeys(name for member in self.members for name in member.teacher.class_names[1:])
        self.class_names = ("background", *names)
        who = "|".join(f"{one.teacher.teacher_id} {one.weight!r}" for one in self.members)
        self.teacher_id = f"ensemble-{hashlib.sha256(f'{method}|{who}'.encode()).hexdigest()[:8]}"

    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """See `Teacher.soft_masks`."""
        return self._shaped(self.fuse([one.teacher.soft_masks(video_NTHW) for one in self.members])[0])

    def clip_masks(self, video_NTHW: np.ndarray, clips: Sequence[ClipKey]) -> tuple[np.ndarray, dict[int, str]]:
        """See `ClipTeacher.clip_masks`. A clip that one member has no mask of has none at all."""
        probs: list[np.ndarray] = []
        faults: dict[int, str] = {}
        for member in self.members:
            prob, found = masks_of_clips(member.teacher, video_NTHW, clips)
            if found:
                prob = prob.copy()
                prob[list(found)] = 0.0
            probs.append(prob)
            faults |= {row: f"{member.name}: {reason}" for row, reason in found.items() if row not in faults}
        fused = self._shaped(self.fuse(probs)[0])
        fused[list(faults)] = 0.0
        return fused, faults

    def fuse(self, probs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Fused probability and confidence, float32 (N, T, C, H, W), of what each member gave."""
        return fuse_by_name(
            [with_class_axis(prob, one.teacher.class_names) for prob, one in zip(probs, self.members, strict=True)],
            [one.teacher.class_names[1:] for one in self.members],
            [one.weight for one in self.members],
            method=self.method,
            class_names=self.class_names[1:],
        )

    def _shaped(self, prob_NTCHW: np.ndarray) -> np.ndarray:
        return prob_NTCHW[:, :, 0] if len(self.class_names) == 2 else prob_NTCHW
