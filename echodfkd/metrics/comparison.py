"""Compare two measurements of the same cases: paired tests, bias and limits of agreement.

Every function takes values per case, paired by position or by name; a pair with a NaN is left out, and ``n`` counts
the pairs that remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd.metrics.summary import Interval, bootstrap_mean

LIMIT_SD = 1.96
"""Standard deviations between the bias and a limit of agreement."""


@dataclass(frozen=True)
class PairedTest:
    """``difference``: mean of a less b with its paired-bootstrap 95 % interval; ``n`` in it counts the pairs.

    ``wilcoxon_p``: two-sided p of the signed-rank test (Wilcoxon 1945); 1 if every pair is equal, NaN if there
    is no pair. ``left_out``: cases of a or b without a finite partner.
    """

    difference: Interval
    wilcoxon_p: float
    left_out: int

    def to_json(self) -> dict[str, object]:
        """Plain values for JSON: undefined numbers become None."""
        p = self.wilcoxon_p if np.isfinite(self.wilcoxon_p) else None
        return {"difference": self.difference.to_json(), "wilcoxon_p": p, "left_out": self.left_out}


def paired_test(a: Mapping[str, float], b: Mapping[str, float], *, seed: int = 0) -> PairedTest:
    """Compare two models on the cases that both were scored on.

    The bootstrap resamples per-case differences, so that a case that is hard for both drops out. The signed-rank
    test leaves equal pairs out (Wilcoxon's own rule) and is exact up to 50 pairs without ties (`scipy.stats.wilcoxon`).

    Args:
        a: case -> value of one model.
        b: likewise of the other.
        seed: of the resampling.
    """
    from scipy.stats import wilcoxon

    gaps = np.array([a[case] - b[case] for case in sorted(a.keys() & b.keys())], np.float64)
    gaps = gaps[np.isfinite(gaps)]
    p = float("nan")
    if len(gaps):
        p = float(wilcoxon(gaps).pvalue) if gaps.any() else 1.0
    return PairedTest(bootstrap_mean(gaps, seed=seed), p, len(a.keys() | b.keys()) - len(gaps))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for multiple testing: the chance of any false positive stays below the level (Holm 1979).

    NaN stays NaN and does not count.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if np.isfinite(p))
    adjusted = [float("nan")] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        adjusted[place] = least
    return adjusted


def bias(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Mean of predicted less reference over the last axis, float64 (...); NaN if there is no pair."""
    return (predicted - reference).mean(-1) if predicted.shape[-1] else np.full(predicted.shape[:-1], np.nan)


def lower_limit(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Lower limit of agreement over the last axis: bias - 1.96 sd of the differences (Bland and Altman, Lancet 1986).

    95 % of differences lie between the limits if they are normal. NaN for fewer than two pairs.
    """
    return bias(predicted, reference) - LIMIT_SD * _sd(predicted - reference)


def upper_limit(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Upper limit of agreement, bias + 1.96 sd: see `lower_limit`."""
    return bias(predicted, reference) + LIMIT_SD * _sd(predicted - reference)


def intraclass_correlation(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Absolute agreement of single values over the last axis, float64 (...): ICC(2,1) of Shrout and Fleiss, 1979.

    Two-way random effects, two raters: the share of the variance that is between cases. Unlike Pearson's r it falls
    with a bias. NaN for fewer than two pairs, or if all values are equal.
    """
    gap, count = predicted - reference, predicted.shape[-1]
    cases = 2.0 * np.square(_sd((predicted + reference) / 2.0))  # mean squares between cases, within, between raters
    rest = np.square(_sd(gap)) / 2.0
    raters = count * np.square(bias(predicted, reference)) / 2.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return (cases - rest) / (cases + rest + 2.0 * (raters - rest) / max(count, 1))


def _sd(gaps: np.ndarray) -> np.ndarray:
    return gaps.std(-1, ddof=1) if gaps.shape[-1] > 1 else np.full(gaps.shape[:-1], np.nan)
