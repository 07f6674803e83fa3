"""Many values to one line of a table: a mean, how sure it is, and how many values it rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
"""Bootstrap samples: an end of the interval then has a sampling error of 1.5 % of the interval's width."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval. NaN where undefined; ``n`` is the number of finite values behind it."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values for JSON, which has no NaN: undefined numbers become None."""
        finite = {key: getattr(self, key) for key in ("mean", "low", "high")}
        return {**{key: float(x) if np.isfinite(x) else None for key, x in finite.items()}, "n": self.n}


def bootstrap_mean(values: np.ndarray, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Interval:
    """Mean and percentile-bootstrap 95 % interval over cases.

    Args:
        values: float (n,); NaN (a metric undefined on a case) is left out and not counted in ``n``.
        seed: of the resampling: the same values and seed give the same interval.
        num_resamples: bootstrap samples.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 13.3 (percentile interval).
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
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(float(kept.mean()), float(low), float(high), count)


def bootstrap_pairs(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """`bootstrap_mean`'s interval for a statistic of pairs (a correlation, an error), resampling whole pairs.

    Pairs with a NaN are left out. Resamples on which the statistic is undefined (a correlation of one
    repeated pair) are left out too.
    """
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, np.float64)[keep], np.asarray(y, np.float64)[keep]
    value = statistic(x, y)
    if not np.isfinite(value):
        return Interval(float("nan"), float("nan"), float("nan"), len(x))
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(x[i], y[i]) for i in rng.integers(0, len(x), (num_resamples, len(x)))])
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, [2.5, 97.5]) if len(draws) else (float("nan"), float("nan"))
    return Interval(value, float(low), float(high), len(x))
