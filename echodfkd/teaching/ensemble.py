"""Several teachers as one: their masks fused class by class, in one process.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from echodfkd.config.sections.route import RouteConfig
from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.teaching.members import Fusion, MemberOutput, MemberRule


@dataclass(frozen=True)
class Member:
    """One teacher, its name in the config, its weight, and whether no clip may be taught without it."""

    name: str
    teacher: Teacher
    weight: float
    required: bool = True


class Ensemble(Teacher):
    """Fuses other teachers; a class is fused over those members that give it.

    Args:
        members: at least one.
        method: one of `fusion.FUSIONS`.
        code: of `mask_codes.MASK_CODES`: the members' masks are rounded to it.
        route: which members teach a clip, as its `ClipKey` says; None if all do.
    """

    def __init__(
        self, members: Sequence[Member], *, method: str, code: str = PROBABILITY, route: RouteConfig | None = None
    ) -> None:
        self.members = list(members)
        rules = tuple(MemberRule(one.name, one.weight, one.required) for one in members)
        self.fusion = Fusion(method, rules, code, route or RouteConfig())
        self.member_classes = {one.name: one.teacher.class_names for one in members}
        self.class_names = tuple(dict.fromkeys(name for names in self.member_classes.values() for name in names))
        self.teacher_id = self.fusion.teacher_id([one.teacher.teacher_id for one in self.members])

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`, and `Fusion.fuse` for clips at fault and members that end the run."""
        wanted = self.class_names[1:] if classes is None else classes
        outputs = [
            MemberOutput.of(one.name, one.teacher, video_NTHW, clips, classes=wanted, code=self.fusion.code)
            for one in self.members
        ]
        fused = self.fusion.fuse(outputs, wanted, code)
        return replace(fused, spans=tuple(span for one in outputs for span in one.spans))
