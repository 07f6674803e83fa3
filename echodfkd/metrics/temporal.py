"""How steady a segmentation is in time."""

from __future__ import annotations

import numpy as np

from echodfkd.metrics.overlap import dice


def temporal_dice(mask: np.ndarray) -> float:
    """Mean Dice between each frame's mask and the next one's: 1 for a mask that never changes.

    A beating heart moves, so that a perfect mask scores below 1; a flickering one scores lower still.
    Compare it with the teacher's or the truth's value on the same cases, not with 1.

    Args:
        mask: bool (T, H, W).

    Returns:
        0..1; NaN where there are fewer than two frames. Empty frames follow `overlap.dice`.
    """
    if len(mask) < 2:
        return float("nan")
    return float(dice(mask[:-1], mask[1:]).mean())
