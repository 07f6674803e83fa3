"""The teacher of a supervised control: each clip's own truth, in place of a model's masks.

The block between source and teacher carries no truth, so that no student is taught by it unawares. This teacher makes
the clip again from its index, which every source can.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.sources.phantom.chambers import PHANTOM_CLASSES


class LabelTeacher(Teacher):
    """Masks of probability 0 and 1. A clip without truth in every pixel, or of a class that is asked for, is at fault.

    Args:
        clip_of: makes a clip, or an evaluation case, again.
    """

    teacher_id = "labels"
    class_names = PHANTOM_CLASSES

    def __init__(self, clip_of: Callable[[ClipKey], VideoClip]) -> None:
        self._clip_of = clip_of

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`."""
        N, T, H, W = video_NTHW.shape
        names = self.class_names[1:] if classes is None else tuple(classes)
        prob = np.zeros((N, T, len(self.class_names) - 1, H, W), np.float32)
        faults = {} if clips else dict.fromkeys(range(N), "labels belong to clips, and these have no ids")
        for row, key in enumerate(clips):
            try:
                clip = self._clip_of(key)
                labels = _known_labels(clip)
                for place, name in zip(self.places(names), names, strict=True):
                    prob[row, :, place] = labels == _number(clip, name)
            except ClipError as error:
                faults[row] = str(error)
        return self.output_of(prob, video_NTHW, classes=names, code=code, faults=faults)


def _known_labels(clip: VideoClip) -> np.ndarray:
    labels = clip.truth_labels
    if labels is None:
        raise ClipError(f"{clip.clip_id} has no labels, and teacher.kind=labels teaches nothing else")
    if (unknown := (labels == TRUTH_UNKNOWN).any(axis=(1, 2))).any():
        raise ClipError(f"{clip.clip_id} has labels in {int((~unknown).sum())} of its {len(labels)} frames, not in all")
    return labels


def _number(clip: VideoClip, name: str) -> int:
    if name not in clip.class_names:
        raise ClipError(f"{clip.clip_id} has labels of {', '.join(clip.class_names[1:])}, not of {name}")
    return clip.class_names.index(name)
