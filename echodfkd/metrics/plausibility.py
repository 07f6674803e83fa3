"""Plausibility of a segmentation, without any truth: a ventricle is one part that stays over the whole clip."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a clip's mask, over space and time together.

    Pixels are connected by their sides within a frame, and to the same pixel of the next frame: the ventricle of one
    frame overlaps that of the next, a patch of text or an atrium does not touch it.

    Args:
        mask: bool (T, H, W).

    Returns:
        bool (T, H, W); empty if ``mask`` is.
    """
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask.copy()
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def stray_share(mask: np.ndarray) -> float:
    """Share of a clip's mask outside its `largest_part`: 0 for one part that stays.

    Args:
        mask: bool (T, H, W).

    Returns:
        0..1; NaN for an empty mask.
    """
    total = int(mask.sum())
    return 1.0 - float(largest_part(mask).sum()) / total if total else float("nan")
