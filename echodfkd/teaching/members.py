"""What the members of an ensemble say of some clips, how it crosses from their pools, and the fusion of it. No Ray.

Every member's masks are rounded to 8 bits (`mask_codes`) before they are fused, whether the members run in one actor or
each in a pool of its own: where the members run changes no bit of the result.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.core.mask_codes import MASK_CODES, PROBABILITY, decode, encode, quantise
from echodfkd.models.teachers.protocol import ClipKey, Teacher, codes_of_clips
from echodfkd.models.teachers.teacher_features import FeatureTeacher
from echodfkd.teaching.fusion import fuse_by_name

_MASKS, _SAID = "member_masks", "member_said"


@dataclass(frozen=True)
class Taught:
    """Masks of N clips.

    Attributes:
        arrays: a row per clip: ``codes`` (N, T, C, H, W) of `mask_codes`; of an ensemble ``confidence`` likewise,
            uint8, round(255 x); of a teacher that shows them ``features`` float16 (N, T, F, h, w).
        faults: the rows that have no usable mask (theirs is that of probability 0), each with the reason.
        dropped: the rows that members were left out of, and for each of these members the reason.
    """

    arrays: dict[str, np.ndarray]
    faults: dict[int, str] = field(default_factory=dict)
    dropped: dict[int, dict[str, str]] = field(default_factory=dict)

    @property
    def codes(self) -> np.ndarray:
        """(N, T, C, H, W)."""
        return self.arrays["codes"]


def teach_alone(
    teacher: Teacher, video_NTHW: np.ndarray, clips: Sequence[ClipKey], wanted: Sequence[str], code: str
) -> Taught:
    """The wanted classes of what one teacher says, and its features where it shows them.

    Raises:
        RunError: it returned another shape than it was given.
    """
    codes_NTCHW, faults = codes_of_clips(teacher, video_NTHW, clips, code)
    codes_NTCHW = codes_NTCHW[:, :, [teacher.class_names.index(name) - 1 for name in wanted]]
    if not isinstance(teacher, FeatureTeacher):
        return Taught({"codes": codes_NTCHW}, faults)
    for row in np.flatnonzero(~np.isfinite(teacher.features).all(axis=(1, 2, 3, 4))):
        faults.setdefault(int(row), f"the teacher {teacher.teacher_id} gave features that are not finite")
    return Taught({"codes": codes_NTCHW, "features": teacher.features}, dict(sorted(faults.items())))


@dataclass(frozen=True)
class Fused:
    """What an ensemble says of N clips: ``faults`` and ``dropped`` as in `Taught`; before it is rounded.

    Shapes: ``prob`` and ``confidence`` float32 (N, T, C, H, W).
    """

    prob: np.ndarray
    confidence: np.ndarray
    faults: dict[int, str]
    dropped: dict[int, dict[str, str]]

    def rounded(self, code: str) -> Taught:
        """As it crosses to the students."""
        arrays = {"codes": encode(self.prob, code), "confidence": quantise(self.confidence)}
        return Taught(arrays, self.faults, self.dropped)


@dataclass(frozen=True)
class MemberMasks:
    """What one member says of N clips.

    Attributes:
        teacher_id: of the member.
        classes: what it gives of the wanted classes.
        levels: (N, T, C, H, W), codes of `mask_codes` in the order of ``classes``.
        faults: the rows that it has no usable mask of, each with the reason.
        error: "", or why it has none of any of these clips.
    """

    teacher_id: str
    classes: tuple[str, ...]
    levels: np.ndarray
    faults: dict[int, str] = field(default_factory=dict)
    error: str = ""

    @staticmethod
    def nothing(teacher: Teacher, video_NTHW: np.ndarray, wanted: Sequence[str], code: str) -> MemberMasks:
        """Of clips that were not shown to the member."""
        classes = tuple(name for name in wanted if name in teacher.class_names[1:])
        N, T, H, W = video_NTHW.shape
        return MemberMasks(teacher.teacher_id, classes, np.zeros((N, T, len(classes), H, W), MASK_CODES[code]))

    @staticmethod
    def of(
        teacher: Teacher, video_NTHW: np.ndarray, clips: Sequence[ClipKey], wanted: Sequence[str], code: str
    ) -> MemberMasks:
        """Of clips that it is shown. An explained error is kept: whether it ends the run, the fusion knows."""
        empty = MemberMasks.nothing(teacher, video_NTHW, wanted, code)
        try:
            taught = teach_alone(teacher, video_NTHW, clips, empty.classes, code)
        except EchoDFKDError as error:
            return replace(empty, error=str(error))
        return replace(empty, levels=taught.codes, faults=taught.faults)

    def to_columns(self, name: str) -> dict[str, np.ndarray]:
        """The columns that this adds to a block; all but the masks ride on the block's first row, as JSON."""
        said: dict[str, object] = {"teacher_id": self.teacher_id, "classes": self.classes, "error": self.error}
        said["faults"] = {str(row): reason for row, reason in self.faults.items()}
        texts = [json.dumps(said)] + [""] * (len(self.levels) - 1)
        return {f"{_MASKS}.{name}": self.levels, f"{_SAID}.{name}": np.array(texts, dtype=object)}

    @staticmethod
    def from_columns(block: dict[str, np.ndarray], name: str) -> MemberMasks:
        """What `to_columns` wrote."""
        said = json.loads(str(block[f"{_SAID}.{name}"][0]))
        faults = {int(row): reason for row, reason in said["faults"].items()}
        levels = np.asarray(block[f"{_MASKS}.{name}"])
        return MemberMasks(said["teacher_id"], tuple(said["classes"]), levels, faults, said["error"])


def without_members(block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A block without the columns of `MemberMasks.to_columns`."""
    return {name: column for name, column in block.items() if name.partition(".")[0] not in (_MASKS, _SAID)}


@dataclass(frozen=True)
class MemberRule:
    """A member's name in the config, its share, and whether a clip may be taught without it."""

    name: str
    weight: float
    required: bool = True


@dataclass(frozen=True)
class Fusion:
    """How an ensemble's members become one teacher; ``method`` is one of `models.fusion.FUSIONS`, ``code`` of
    `mask_codes.MASK_CODES`: what the members' masks are rounded to.
    """

    method: str
    members: tuple[MemberRule, ...]
    code: str = PROBABILITY

    def teacher_id(self, ids: Sequence[str]) -> str:
        """The ensemble's id, of its members' ids in the order of ``members``."""
        who = "|".join(f"{one} {rule.weight!r}" for one, rule in zip(ids, self.members, strict=True))
        steps = "255" if self.code == PROBABILITY else self.code
        return f"ensemble-{hashlib.sha256(f'{self.method}/{steps}|{who}'.encode()).hexdigest()[:8]}"

    def fuse(self, said: Sequence[MemberMasks], wanted: Sequence[str]) -> Fused:
        """Fuse what the members say of N clips, class by class over those who give it.

        A member that may be left out and has no usable mask of a clip is left out of that clip's fusion. A clip that a
        required member has none of, or of which a wanted class is then given by nobody, is at fault.

        Args:
            said: one per member, in the order of ``members``.
            wanted: classes, each given by at least one member.

        Returns:
            ``prob`` and ``confidence`` (`models.fusion.confidence`, over those that were not left out).

        Raises:
            RunError: a required member raised an explained error.
        """
        for rule, one in zip(self.members, said, strict=True):
            if one.error and rule.required:
                raise RunError(f"teacher.members.{rule.name}: {one.error}")
        N, T, _, H, W = said[0].levels.shape
        arrays = {name: np.zeros((N, T, len(wanted), H, W), np.float32) for name in ("prob", "confidence")}
        faults: dict[int, str] = {}
        dropped: dict[int, dict[str, str]] = {}
        groups: dict[tuple[int, ...], list[int]] = {}  # clips by the members that they are fused from
        for row in range(N):
            missing = {place: one.error or one.faults[row] for place, one in enumerate(said) if _lacks(one, row)}
            left = tuple(place for place in range(len(said)) if place not in missing)
            if reason := self._fault(said, missing, left, wanted):
                faults[row] = reason
                continue
            groups.setdefault(left, []).append(row)
            if missing:
                dropped[row] = {self.members[place].name: reason for place, reason in missing.items()}
        for left, rows in groups.items():
            arrays["prob"][rows], arrays["confidence"][rows] = fuse_by_name(
                [decode(said[place].levels[rows]) for place in left],
                [said[place].classes for place in left],
                [self.members[place].weight for place in left],
                method=self.method,
                class_names=tuple(wanted),
            )
        return Fused(**arrays, faults=faults, dropped=dropped)

    def _fault(
        self, said: Sequence[MemberMasks], missing: dict[int, str], left: Sequence[int], wanted: Sequence[str]
    ) -> str:
        """Why a clip with these members missing cannot be taught, or ""."""
        reasons = {place: f"{self.members[place].name}: {reason}" for place, reason in missing.items()}
        if required := [place for place in missing if self.members[place].required]:
            return reasons[required[0]]
        given = {name for place in left for name in said[place].classes}
        return "; ".join(reasons.values()) if set(wanted) - given else ""


def _lacks(one: MemberMasks, row: int) -> bool:
    return bool(one.error) or row in one.faults
