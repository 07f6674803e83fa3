"""What a teacher is: whatever makes soft masks of clips. `torch_teacher` has the one that is a network.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from echodfkd.core.errors import RunError
from echodfkd.core.mask_codes import encode


class Teacher(Protocol):
    """What the pool runs."""

    teacher_id: str
    class_names: tuple[str, ...]
    """Background first, then what it segments; LV is one of them."""

    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """Probability of each class but the background, for uint8 video (N, T, H, W).

        float32 (N, T, H, W) of a teacher that segments one class, else (N, T, C, H, W) in the order of its names.
        """
        ...


@dataclass(frozen=True)
class ClipKey:
    """Which clip it is that a teacher is shown; ``is_case`` where it is an evaluation case.

    Example: ``ClipKey("recorded-0X1A-s0-e0-w12", index=17, window_start=12)``.
    """

    clip_id: str
    index: int
    window_start: int
    is_case: bool = False


@runtime_checkable
class ClipTeacher(Protocol):
    """A `Teacher` that must know which clips it is shown: masks that were made before, and what is built on them."""

    def clip_masks(self, video_NTHW: np.ndarray, clips: Sequence[ClipKey]) -> tuple[np.ndarray, dict[int, str]]:
        """As `Teacher.soft_masks`; and the rows that have no usable mask, each with the reason (their mask is 0)."""
        ...


@runtime_checkable
class CodingTeacher(Protocol):
    """A `Teacher` that has its masks in a code of `mask_codes`, or rounds them where they are made."""

    def clip_codes(
        self, video_NTHW: np.ndarray, clips: Sequence[ClipKey], code: str
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Codes (N, T, C, H, W) of each class but the background; faults as `ClipTeacher.clip_masks`."""
        ...


def codes_of_clips(
    teacher: Teacher, video_NTHW: np.ndarray, clips: Sequence[ClipKey], code: str
) -> tuple[np.ndarray, dict[int, str]]:
    """Masks of clips by any teacher, (N, T, C, H, W) in a code of `mask_codes`; and the rows without a usable one, each
    with the reason, whose masks are those of probability 0.

    Raises:
        RunError: the teacher returned another shape than it was given.
    """
    if isinstance(teacher, CodingTeacher):
        codes, faults = teacher.clip_codes(video_NTHW, clips, code)
    else:
        prob, faults = masks_of_clips(teacher, video_NTHW, clips)
        prob = with_class_axis(prob, teacher.class_names)
        if faults:
            prob = prob.copy()
            prob[list(faults)] = 0.0  # what is not finite has no code
        codes = encode(prob, code)
    codes[list(faults)] = encode(np.zeros(()), code)
    return codes, faults


def masks_of_clips(
    teacher: Teacher, video_NTHW: np.ndarray, clips: Sequence[ClipKey]
) -> tuple[np.ndarray, dict[int, str]]:
    """Masks of clips by any teacher, and the rows without a usable one, each with the reason.

    Raises:
        RunError: the teacher returned another shape than it was given.
    """
    prob, faults = (
        teacher.clip_masks(video_NTHW, clips)
        if isinstance(teacher, ClipTeacher)
        else (teacher.soft_masks(video_NTHW), {})
    )
    if prob.shape != masks_shape(teacher, video_NTHW):
        raise RunError(
            f"the teacher {teacher.teacher_id} returned masks of shape {prob.shape} for video {video_NTHW.shape}"
        )
    return prob, with_unusable(teacher, faults, np.isfinite(prob).all(axis=tuple(range(1, prob.ndim))))


def with_unusable(teacher: Teacher, faults: dict[int, str], finite_N: np.ndarray) -> dict[int, str]:
    """The rows without a usable mask, each with the reason: those of ``faults``, and those that are not finite."""
    reason = f"the teacher {teacher.teacher_id} gave a mask that is not finite"
    return dict(sorted({**{int(row): reason for row in np.flatnonzero(~finite_N)}, **faults}.items()))


def masks_shape(teacher: Teacher, video_NTHW: np.ndarray) -> tuple[int, ...]:
    """Shape of this teacher's masks: see `Teacher.soft_masks`."""
    N, T, H, W = video_NTHW.shape
    count = len(teacher.class_names) - 1
    return (N, T, H, W) if count == 1 else (N, T, count, H, W)


def with_class_axis(prob: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """What `Teacher.soft_masks` gave as (N, T, C, H, W), also where there is one class."""
    return prob[:, :, None] if len(class_names) == 2 else prob


def pick_classes(prob: np.ndarray, class_names: tuple[str, ...], wanted: tuple[str, ...]) -> np.ndarray:
    """The wanted classes out of what `Teacher.soft_masks` gave: (N, T, H, W) for one, else (N, T, C, H, W)."""
    places = [class_names.index(name) - 1 for name in wanted]
    if len(class_names) == 2:
        return prob
    return prob[:, :, places[0]] if len(places) == 1 else prob[:, :, places]
