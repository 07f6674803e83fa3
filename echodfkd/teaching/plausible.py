"""Keep a teacher plausible: black outside the ultrasound sector before it sees a clip, one ventricle afterwards.

Text, rulers and traces lie outside the sector, and a ventricle is one part that stays over the clip. Both are found
from the clip itself.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from echodfkd.core.mask_codes import encode
from echodfkd.metrics.plausibility import largest_part, stray_share
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput

_LIT, _MOVES = 12.0, 2.0
"""Grey levels: a pixel of the sector is brighter than the first at some time, and deviates by the second over time."""
_LEAST_SHARE, _TOP = 0.25, 0.25
"""A sector is at least this share of the frame, and begins in this share of its rows. Another find is a bright patch in
a clip that is nearly black, and changes nothing."""
_MARGIN = 4
"""Pixels that the frame is continued by, so that its edge does not count as dark."""
_HALO = 2
"""Pixels around a stray part whose low probabilities go with it."""


def find_sector(video_THW: np.ndarray) -> np.ndarray:
    """Pixels of the sector, bool (H, W): the convex hull of the largest region that is lit and moves, all below it, and
    the same on the other side of the line below its tip.

    Lines and letters are thinner than the opening (3 pixels). All pixels, if there is no such region.
    """
    lit = video_THW.max(0) > _LIT
    if len(video_THW) > 1:
        lit &= video_THW.std(0, dtype=np.float32) > _MOVES
    wide = np.pad(lit, _MARGIN, mode="edge")  # what is lit at the frame's edge goes on beyond it
    wide = ndimage.binary_closing(ndimage.binary_opening(wide), iterations=2)
    lit = wide[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    parts, count = ndimage.label(lit)
    everything = np.ones(lit.shape, bool)
    if not count:
        return everything
    points = np.argwhere(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))
    try:
        planes = ConvexHull(points).equations
    except QhullError:  # a line
        return everything
    upper = planes[planes[:, 0] < 0.0]  # the sides and the top: a deep part that is dark belongs to the sector
    rows, columns = (axis.reshape(1, -1) for axis in np.indices(lit.shape))
    tip = float(points[points[:, 0] <= points[:, 0].min() + 2, 1].mean())

    def within(planes: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return (planes[:, :1] * rows + planes[:, 1:2] * columns + planes[:, 2:] <= 1.0).all(0)

    if within(planes, columns).mean() < _LEAST_SHARE or points[:, 0].min() > _TOP * len(lit):
        return everything
    # Sectors are symmetric about the line below their tip: so is one with a side in the dark.
    return (within(upper, columns) | within(upper, 2.0 * tip - columns)).reshape(lit.shape)


class PlausibleTeacher(Teacher):
    """A teacher that sees only the sector, and whose ventricle is one part over the clip.

    Args:
        teacher: any; its features, if it gives any, are left out.
        stray_limit: a clip with a larger `stray_share` keeps all its parts: which one is the ventricle is not clear.
    """

    def __init__(self, teacher: Teacher, stray_limit: float = 1.0) -> None:
        self.teacher, self._stray_limit = teacher, stray_limit
        limit = f"{stray_limit:g}" if stray_limit < 1.0 else ""
        self.teacher_id, self.class_names = f"{teacher.teacher_id}-plausible{limit}", teacher.class_names

    def compile(self) -> None:
        """See `Teacher.compile`."""
        self.teacher.compile()

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`."""
        sectors = np.stack([find_sector(video) for video in video_NTHW])
        found = self.teacher.teach(video_NTHW * sectors[:, None], clips, classes=classes)
        names = self.class_names[1:] if classes is None else classes
        if "LV" in names:
            place = list(names).index("LV")
            for prob_THW in found.masks[:, :, place]:
                mask = prob_THW > 0.5
                if not stray_share(mask) > self._stray_limit:
                    prob_THW[_stray(mask)] = 0.0
        return TeacherOutput(found.masks if code is None else encode(found.masks, code), found.faults)


def _stray(mask: np.ndarray) -> np.ndarray:
    """Pixels of all parts but the largest of the clip, and a halo around them that keeps clear of the largest."""
    kept = largest_part(mask)
    stray = mask & ~kept
    if not stray.any():
        return stray
    wide = ndimage.generate_binary_structure(3, 1)
    wide[[0, 2]] = False  # within a frame
    return ndimage.binary_dilation(stray, wide, iterations=_HALO) & ~kept
