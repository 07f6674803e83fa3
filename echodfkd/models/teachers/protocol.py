"""The interface of all teachers, and the record that they return.

Legend: N clips, T frames, C classes, H rows, W columns, F channels of a feature map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from echodfkd.core.errors import InputError, RunError
from echodfkd.core.mask_codes import encode
from echodfkd.core.records import StageSpan


@dataclass(frozen=True)
class ClipKey:
    """Identity of a clip that a teacher is shown; ``is_case`` if it is an evaluation case, ``route`` as of the clip.

    Example: ``ClipKey("recorded-0X1A-s0-e0-w12", index=17, window_start=12)``.
    """

    clip_id: str
    index: int
    window_start: int
    is_case: bool = False
    route: str = ""


@dataclass(frozen=True)
class TeacherOutput:
    """A teacher's output for N clips.

    Attributes:
        masks: (N, T, C, H, W) in the order of the classes asked for: uint8 or int8 in the code asked for
            (`mask_codes`), or float32 probabilities, 0..1, if no code was.
        faults: rows without a usable mask and the reason; their masks are those of probability 0.
        confidence: agreement of an ensemble's members, uint8 round(255 x), shaped as ``masks``; None of one teacher.
        features: float16 (N, T, F, h, w), the maps of one layer; None if the teacher gives none.
        dropped: rows that were taught without some members of an ensemble: row -> member -> reason.
        spans: work to show in the timeline, beside the call itself; ``actor`` is left empty.

    Example: ``TeacherOutput(np.zeros((2, 16, 1, 56, 56), np.uint8), faults={1: "no mask of clip c7"})``.
    """

    masks: np.ndarray
    faults: Mapping[int, str] = field(default_factory=dict)
    confidence: np.ndarray | None = None
    features: np.ndarray | None = None
    dropped: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    spans: tuple[StageSpan, ...] = ()


class Teacher(ABC):
    """Makes soft masks of clips: a network, recorded masks, a remote service, an ensemble, or a wrapper of one."""

    teacher_id: str
    class_names: tuple[str, ...]
    """Background first, then the classes that it segments; LV is one of them."""
    feature_shape: tuple[int, int, int] | None = None
    """(F, h, w) of the features in its output; None if it gives none."""
    sees_frames: bool = False
    """Whether the mask of a frame depends on no other frame."""
    member_classes: Mapping[str, tuple[str, ...]] = {}
    """``class_names`` of each member of an ensemble; empty for other teachers."""

    @abstractmethod
    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """Make the masks of N clips.

        Args:
            video_NTHW: uint8, grey.
            clips: identities of the clips, in order; empty if they are not known: a cache then keeps nothing, and
                recorded masks cannot be found.
            classes: subset of `class_names` to return, in this order; None returns all but the background.
            code: of `mask_codes.MASK_CODES`; None returns probabilities.

        Raises:
            RunError: the teacher cannot work, e.g. its service is gone or its network gives another shape.
        """

    def compile(self) -> None:  # noqa: B027 most teachers have nothing to compile
        """Compile the network, if there is one (teacher.compile)."""

    def places(self, classes: Sequence[str] | None) -> list[int]:
        """Positions of these classes among `class_names` without the background; all positions for None."""
        names = self.class_names[1:]
        return [names.index(name) for name in (names if classes is None else classes)]

    def output_of(
        self,
        prob_NTCHW: np.ndarray,
        video_NTHW: np.ndarray,
        *,
        classes: Sequence[str] | None,
        code: str | None,
        faults: Mapping[int, str] | None = None,
    ) -> TeacherOutput:
        """The output for float probabilities of all classes of this teacher. Rows that are not finite are at fault.

        Raises:
            RunError: the probabilities are of another shape than the video asks for.
        """
        N, T, H, W = video_NTHW.shape
        if prob_NTCHW.shape != (N, T, len(self.class_names) - 1, H, W):
            raise RunError(
                f"the teacher {self.teacher_id} returned masks of shape {prob_NTCHW.shape} for video {video_NTHW.shape}"
            )
        faults = self.with_not_finite(faults or {}, np.isfinite(prob_NTCHW).all(axis=(1, 2, 3, 4)))
        masks = prob_NTCHW[:, :, self.places(classes)]
        masks[list(faults)] = 0.0  # NaN has no code
        return TeacherOutput(masks if code is None else encode(masks, code), faults)

    def with_not_finite(self, faults: Mapping[int, str], finite_N: np.ndarray) -> dict[int, str]:
        """``faults`` and the rows whose masks are not finite, sorted by row."""
        reason = f"the teacher {self.teacher_id} gave a mask that is not finite"
        return dict(sorted({**{int(row): reason for row in np.flatnonzero(~finite_N)}, **faults}.items()))


def check_levels(video_NTHW: np.ndarray) -> dict[int, str]:
    """Rows whose pixels are 0 and 1 only, each with the reason: pixels of 0..1 that were rounded. Black is no fault.

    Raises:
        InputError: the pixels are no uint8.
    """
    if video_NTHW.dtype != np.uint8:
        raise InputError(f"a teacher takes grey levels 0..255 as uint8, got {video_NTHW.dtype}")
    reason = "its largest grey level is 1, as of pixels of 0..1 in place of 0..255"
    return {int(row): reason for row in np.flatnonzero(video_NTHW.max(axis=(1, 2, 3)) == 1)}
