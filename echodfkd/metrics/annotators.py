"""Several tracings of one frame: their consensus, their agreement, and a mask's agreement with them.

Legend: A annotators, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from echodfkd.metrics.overlap import dice


@dataclass(frozen=True)
class AgainstAnnotators:
    """A mask's Dice with each annotator (float64 (A,), in their order), and with their consensus."""

    each: np.ndarray
    consensus: float

    @property
    def mean(self) -> float:
        """Mean over the annotators."""
        return float(self.each.mean())


def consensus(masks_AHW: np.ndarray) -> np.ndarray:
    """Majority vote, bool (H, W): pixels that more than half of the annotators marked as the ventricle.

    A tie is no majority: the consensus of two annotators is their intersection. Voting needs no model of each
    annotator's skill, which the two to seven tracings of a frame would not support.

    Args:
        masks_AHW: bool, at least one annotator.
    """
    _check(masks_AHW)
    return 2 * masks_AHW.sum(axis=0) > len(masks_AHW)


def pairwise_dice(masks_AHW: np.ndarray) -> np.ndarray:
    """Dice of every pair of annotators, float64 (A (A - 1) / 2,), in the order of `itertools.combinations`.

    Its mean is the inter-annotator agreement of the frame. Empty for a single annotator.
    """
    _check(masks_AHW)
    pairs = list(combinations(range(len(masks_AHW)), 2))
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return dice(masks_AHW[first], masks_AHW[second])


def against_annotators(mask_HW: np.ndarray, masks_AHW: np.ndarray) -> AgainstAnnotators:
    """Dice of one mask with every annotator and with their consensus. Empty masks follow `overlap.dice`.

    Args:
        mask_HW: bool.
        masks_AHW: bool, at least one annotator.
    """
    _check(masks_AHW)
    each = dice(np.broadcast_to(mask_HW, masks_AHW.shape), masks_AHW)
    return AgainstAnnotators(each, float(dice(mask_HW, consensus(masks_AHW))))


def _check(masks_AHW: np.ndarray) -> None:
    assert masks_AHW.ndim == 3, f"masks are (A, H, W), got {masks_AHW.shape}"
    assert masks_AHW.dtype == bool, f"masks are bool, got {masks_AHW.dtype}"
    assert len(masks_AHW), "a frame needs an annotator"
