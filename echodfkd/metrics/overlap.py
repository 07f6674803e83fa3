"""Overlap of two masks.

Legend: ... any leading axes, H rows, W columns.
"""

from __future__ import annotations

import numpy as np


def dice(a_mask: np.ndarray, b_mask: np.ndarray) -> np.ndarray:
    """Dice coefficient 2|A and B| / (|A| + |B|) of each frame.

    Args:
        a_mask: bool (..., H, W).
        b_mask: bool, the same shape.

    Returns:
        float64 (...), 0..1. Empty masks: 1 if both are empty, 0 if exactly one is.

    Dice, "Measures of the amount of ecologic association between species", 1945, eq. for the
    coincidence index.
    """
    both, a_size, b_size = _counts(a_mask, b_mask)
    total = a_size + b_size
    return np.where(total == 0, 1.0, 2.0 * both / np.maximum(total, 1))


def iou(a_mask: np.ndarray, b_mask: np.ndarray) -> np.ndarray:
    """Intersection over union (Jaccard index) of each frame: |A and B| / |A or B|.

    Args:
        a_mask: bool (..., H, W).
        b_mask: bool, the same shape.

    Returns:
        float64 (...), 0..1. Empty masks: 1 if both are empty, 0 if exactly one is.
    """
    both, a_size, b_size = _counts(a_mask, b_mask)
    union = a_size + b_size - both
    return np.where(union == 0, 1.0, both / np.maximum(union, 1))


def _counts(a_mask: np.ndarray, b_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert a_mask.dtype == bool, f"masks are bool, got {a_mask.dtype}"
    assert b_mask.dtype == bool, f"masks are bool, got {b_mask.dtype}"
    assert a_mask.shape == b_mask.shape, f"masks differ in shape: {a_mask.shape} and {b_mask.shape}"
    axes = (-2, -1)
    return (a_mask & b_mask).sum(axes), a_mask.sum(axes), b_mask.sum(axes)
