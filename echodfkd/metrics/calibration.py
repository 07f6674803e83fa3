"""Calibration of soft masks: of all pixels with probability 0.8, four in five should belong to the mask.

Every pixel has the same weight. Most pixels of a frame are easy background, so that the errors are small for any
network: compare networks on the same cases; the absolute value means little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_BINS = 15
"""Equal bins of the probability, as in Guo et al. (2017)."""


@dataclass(frozen=True)
class Reliability:
    """A reliability curve's bins, as sums that add up over frames, cases and workers. All arrays are float64 (bins,).

    ``count`` pixels, ``confidence`` their summed probability, ``positive`` the number of them in the truth;
    ``squared_error`` sums (probability - truth)^2 over all pixels.
    """

    count: np.ndarray
    confidence: np.ndarray
    positive: np.ndarray
    squared_error: float

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.count + other.count,
            self.confidence + other.confidence,
            self.positive + other.positive,
            self.squared_error + other.squared_error,
        )

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean probability and share of truth of each bin, float64 (bins,); NaN in a bin without pixels."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.confidence / self.count, self.positive / self.count

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over pixels of their bin's |mean probability - share of truth|.

        0..1; NaN if there is no pixel. Naeini et al. (AAAI 2015), in its binary form: the probability of the
        class itself is binned, not that of the more likely class.
        """
        total = self.count.sum()
        return float(np.abs(self.confidence - self.positive).sum() / total) if total else float("nan")

    @property
    def brier(self) -> float:
        """Mean squared difference of probability and truth (Brier 1950), 0..1; NaN if there is no pixel."""
        total = self.count.sum()
        return float(self.squared_error / total) if total else float("nan")


def reliability(
    prob: np.ndarray, truth_mask: np.ndarray, known: np.ndarray | None = None, *, num_bins: int = NUM_BINS
) -> Reliability:
    """The reliability curve of soft masks. Bin i holds probabilities i / bins <= p < (i + 1) / bins; 1 is in the last.

    Args:
        prob: float (..., H, W), 0..1.
        truth_mask: bool, the same shape.
        known: bool, the same shape: pixels that count; None takes all.
        num_bins: equal bins of 0..1.
    """
    assert prob.shape == truth_mask.shape, f"shapes differ: {prob.shape} and {truth_mask.shape}"
    assert truth_mask.dtype == bool, f"masks are bool, got {truth_mask.dtype}"
    p, truth = prob.astype(np.float64).ravel(), truth_mask.ravel().astype(np.float64)
    if known is not None:
        p, truth = p[known.ravel()], truth[known.ravel()]
    place = np.clip((p * num_bins).astype(np.int64), 0, num_bins - 1)

    def total(weights: np.ndarray) -> np.ndarray:
        return np.bincount(place, weights=weights, minlength=num_bins).astype(np.float64)

    return Reliability(total(np.ones_like(p)), total(p), total(truth), float(np.square(p - truth).sum()))
