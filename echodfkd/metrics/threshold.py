"""Choose the probability threshold of a soft mask, on separate cases.

Legend: T frames, H rows, W columns, K codes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

NUM_CODES = 256


def dice_by_code(prob: np.ndarray, truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Dice of the masks floor(255 p) > k, for every k at once.

    Args:
        prob: float (T, H, W), 0..1.
        truth: bool (T, H, W).
        known: bool (T, H, W); a pixel of unknown truth counts in neither mask.

    Returns:
        float64 (K,), K = 256: mean over frames; a frame whose masks are both empty counts as 1, as in `overlap.dice`.
    """
    codes = np.clip(np.floor(255.0 * np.asarray(prob, np.float64)), 0, NUM_CODES - 1).astype(np.int64)
    total = np.zeros(NUM_CODES)
    for code, real, seen in zip(codes, truth, known, strict=True):
        above = _above(code[seen])
        both = _above(code[seen & real])
        size = above + int((seen & real).sum())
        total += np.where(size == 0, 1.0, 2.0 * both / np.maximum(size, 1))
    return total / len(codes)


def best_code(curves: Iterable[np.ndarray]) -> int:
    """The code k with the highest mean of the cases' `dice_by_code`; of equal ones the nearest to 127.

    Raises:
        ValueError: there is no case.
    """
    stacked = np.stack(list(curves))
    mean = stacked.mean(axis=0)
    best = np.flatnonzero(mean >= mean.max() - 1e-12)
    return int(best[np.argmin(np.abs(best - 127))])


def _above(codes: np.ndarray) -> np.ndarray:
    """Number of codes above k, int64 (K,)."""
    counts = np.bincount(codes, minlength=NUM_CODES)
    return counts.sum() - np.cumsum(counts)
