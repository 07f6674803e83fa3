"""Summarise many values: a mean or other statistic, its bootstrap interval, and the number of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

NUM_RESAMPLES = 2000
"""Bootstrap samples: an end of the interval then has a sampling error of 1.5 % of the interval's width."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval. NaN if undefined; ``n`` is the number of finite values behind it."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values for JSON, which has no NaN: undefined numbers become None."""
        finite = {key: getattr(self, key) for key in ("mean", "low", "high")}
        return {**{key: float(x) if np.isfinite(x) else None for key, x in finite.items()}, "n": self.n}


def bootstrap_mean(
    values: np.ndarray, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES, method: str = "percentile"
) -> Interval:
    """Mean and bootstrap 95 % interval over cases.

    Args:
        values: float (n,); NaN (a metric undefined on a case) is left out and not counted in ``n``.
        seed: of the resampling: the same values and seed give the same interval.
        num_resamples: bootstrap samples.
        method: percentile, or bca (bias-corrected and accelerated), which is nearer to 95 % for few and skewed
            values, such as distances.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, sections 13.3 (percentile) and 14.3 (BCa).
    """
    kept = np.asarray(values, np.float64)
    kept = kept[np.isfinite(kept)]
    count = len(kept)
    if count == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    # One row at a time would be slow, all at once large: blocks of about a million draws.
    block = max(1, 1_000_000 // count)
    means = [
        kept[rng.integers(0, count, (min(block, num_resamples - start), count))].mean(axis=1)
        for start in range(0, num_resamples, block)
    ]
    left_out = (kept.sum() - kept) / max(count - 1, 1)  # the means without each of the cases
    low, high = _ends(float(kept.mean()), np.concatenate(means), left_out, method)
    return Interval(float(kept.mean()), low, high, count)


def bootstrap_pairs(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    method: str = "percentile",
) -> Interval:
    """`bootstrap_mean`'s interval for a statistic of pairs (a correlation, an error), resampling whole pairs.

    Pairs with a NaN are left out. Resamples on which the statistic is undefined (a correlation of one
    repeated pair) are left out too. ``statistic`` takes float64 (..., n) twice and works over the last axis.
    """
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, np.float64)[keep], np.asarray(y, np.float64)[keep]
    value = float(statistic(x, y))
    if not np.isfinite(value):
        return Interval(float("nan"), float("nan"), float("nan"), len(x))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(x), (num_resamples, len(x)))
    others = np.array([np.delete(np.arange(len(x)), i) for i in range(len(x))], dtype=np.int64)
    low, high = _ends(value, statistic(x[drawn], y[drawn]), statistic(x[others], y[others]), method)
    return Interval(value, low, high, len(x))


def _ends(value: float, draws: np.ndarray, left_out: np.ndarray, method: str) -> tuple[float, float]:
    """Ends of the 95 % interval: quantiles of the draws, which BCa moves by the draws' bias and the jackknife's skew.

    BCa is the percentile interval if all draws are equal or the jackknife is undefined (fewer than two values, or all
    equal).
    """
    assert method in ("percentile", "bca"), method
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return float("nan"), float("nan")
    levels = [0.025, 0.975]
    below = float(np.mean(draws < value) + np.mean(draws <= value)) / 2.0
    if method == "bca" and 0.0 < below < 1.0 and np.isfinite(left_out).all():
        normal = NormalDist()
        bias = normal.inv_cdf(below)
        gap = left_out.mean() - left_out
        spread = float(np.square(gap).sum())
        skew = float((gap**3).sum()) / (6.0 * spread**1.5) if spread > 0 else 0.0
        points = [bias + normal.inv_cdf(level) for level in levels]
        levels = [normal.cdf(bias + point / (1.0 - skew * point)) for point in points]
    low, high = np.quantile(draws, levels)
    return float(low), float(high)
