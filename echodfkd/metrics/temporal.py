"""Temporal consistency of a segmentation."""

from __future__ import annotations

import numpy as np

from echodfkd.metrics.cardiac import area_curve
from echodfkd.metrics.overlap import dice


def temporal_dice(mask: np.ndarray) -> float:
    """Mean Dice between each frame's mask and the next one's: 1 for a mask that never changes.

    A beating heart moves, so that a perfect mask scores below 1; a flickering one scores lower still.
    Compare it with the teacher's or the truth's value on the same cases, not with 1.

    Args:
        mask: bool (T, H, W).

    Returns:
        0..1; NaN for fewer than two frames. Empty frames follow `overlap.dice`.
    """
    if len(mask) < 2:
        return float("nan")
    return float(dice(mask[:-1], mask[1:]).mean())


def area_jitter(mask: np.ndarray, truth_mask: np.ndarray) -> float:
    """Jitter of the mask's area from frame to frame, relative to that of the truth.

    Root mean square over frames of the area's second difference a[t+1] - 2 a[t] + a[t-1], divided by that of the
    truth: about 1 for a mask as smooth as the truth, more for one that flickers, less for one that lags or hardly
    moves. Second differences of a shape's attributes are how Painchaud et al. ("Echocardiography segmentation with
    enforced temporal consistency", IEEE TMI 41, 2022) detect temporal inconsistency.

    Args:
        mask: bool (T, H, W).
        truth_mask: bool, the same shape.

    Returns:
        0 or more; NaN for fewer than three frames, or if the truth's area changes evenly.
    """
    assert mask.shape == truth_mask.shape, f"masks differ in shape: {mask.shape} and {truth_mask.shape}"
    if len(mask) < 3:
        return float("nan")
    own, wanted = (np.sqrt(np.square(np.diff(area_curve(m), n=2)).mean()) for m in (mask, truth_mask))
    return float(own / wanted) if wanted > 0 else float("nan")
