"""Rank agreement of two scores, for several scored things per case and for means over cases.

Legend: N scored things, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd.metrics.summary import NUM_RESAMPLES, Interval, bootstrap_mean


@dataclass(frozen=True)
class RankAgreement:
    """Rank correlations with 95 % intervals over cases.

    ``spearman`` and ``kendall`` (tau-b) are over all things; their ``n`` counts the things. ``within_case`` is the
    mean over cases of Spearman's rho inside one case, which removes how hard each case is; its ``n`` counts the
    cases whose rho is defined.
    """

    spearman: Interval
    kendall: Interval
    within_case: Interval

    def to_json(self) -> dict[str, dict[str, float | int | None]]:
        """Plain values for JSON."""
        return {name: getattr(self, name).to_json() for name in ("spearman", "kendall", "within_case")}


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; ties share their mean rank. NaN if x or y is constant or shorter than two."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b (Kendall 1945), which allows for ties. NaN if x or y is constant or shorter than two."""
    return float(_kendall(x, y, np.ones((1, len(x))))[0])


def rank_agreement(
    x: np.ndarray, y: np.ndarray, cases: Sequence[str], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> RankAgreement:
    """Rank correlations of two scores; the bootstrap draws whole cases, as the things of a case are not independent.

    Args:
        x: float (N,), one score; a NaN in either score leaves the thing out.
        y: float (N,), the other.
        cases: the case of each thing.
        seed: of the resampling.
        num_resamples: bootstrap samples.
    """
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = np.asarray(x, np.float64)[keep], np.asarray(y, np.float64)[keep]
    names, case_of = np.unique(np.asarray(cases, dtype=str)[keep], return_inverse=True)
    members = [np.flatnonzero(case_of == number) for number in range(len(names))]
    inside = np.array([spearman(x[member], y[member]) for member in members])
    if not members:
        nothing = Interval(float("nan"), float("nan"), float("nan"), 0)
        return RankAgreement(nothing, nothing, nothing)
    drawn = np.random.default_rng(seed).integers(0, len(members), (num_resamples, len(members)))
    rhos, weights_RN = [], np.zeros((num_resamples, len(x)))
    for row, draw in enumerate(drawn):
        things = np.concatenate([members[number] for number in draw])
        rhos.append(spearman(x[things], y[things]))
        weights_RN[row] = np.bincount(things, minlength=len(x))
    return RankAgreement(
        _interval(spearman(x, y), np.array(rhos), len(x)),
        _interval(kendall(x, y), _kendall(x, y, weights_RN), len(x)),
        bootstrap_mean(inside, seed=seed, num_resamples=num_resamples),
    )


@dataclass(frozen=True)
class RankingAgreement:
    """Rank correlations of two scores' *means* over cases, i.e. of two rankings of models.

    ``n`` counts the models; the 95 % intervals are over cases, drawn whole, with the models as they are.
    """

    spearman: Interval
    kendall: Interval

    def to_json(self) -> dict[str, dict[str, float | int | None]]:
        """Plain values for JSON."""
        return {name: getattr(self, name).to_json() for name in ("spearman", "kendall")}


def ranking_agreement(
    x_MN: np.ndarray, y_MN: np.ndarray, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> RankingAgreement:
    """Agreement of two scores on the order of M models that were scored on the same N cases.

    Args:
        x_MN: float (M, N), one score, NaN if a model was not scored on a case (the pair is then left out).
        y_MN: float (M, N), the other.
        seed: of the resampling.
        num_resamples: bootstrap samples of the cases.
    """
    x_MN, y_MN = np.asarray(x_MN, np.float64), np.asarray(y_MN, np.float64)
    known_MN = np.isfinite(x_MN) & np.isfinite(y_MN)
    kept = known_MN.any(axis=1)
    x_MN, y_MN, known_MN = x_MN[kept], y_MN[kept], known_MN[kept]
    M, N = x_MN.shape
    x_MN, y_MN = np.where(known_MN, x_MN, 0.0), np.where(known_MN, y_MN, 0.0)
    drawn = np.random.default_rng(seed).integers(0, max(N, 1), (num_resamples, N))
    weights_RN = np.stack([np.bincount(draw, minlength=N) for draw in drawn]) if N else np.zeros((0, 0))

    def means(values_MN: np.ndarray, weights_N: np.ndarray) -> np.ndarray:
        count_M = known_MN @ weights_N
        return np.where(count_M > 0, values_MN @ weights_N / np.maximum(count_M, 1), np.nan)

    def both(weights_N: np.ndarray) -> tuple[float, float]:
        x_M, y_M = means(x_MN, weights_N), means(y_MN, weights_N)
        seen = np.isfinite(x_M)
        return spearman(x_M[seen], y_M[seen]), kendall(x_M[seen], y_M[seen])

    value = both(np.ones(N))
    draws = np.array([both(weights) for weights in weights_RN]).reshape(-1, 2)
    return RankingAgreement(_interval(value[0], draws[:, 0], M), _interval(value[1], draws[:, 1], M))


def _interval(value: float, draws: np.ndarray, count: int) -> Interval:
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, [2.5, 97.5]) if len(draws) and np.isfinite(value) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), count)


def _kendall(x: np.ndarray, y: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Tau-b with thing i counted weights[i] times, for each row of weights. Copies of one thing are ties."""
    sign_x, sign_y = np.sign(x[:, None] - x[None]), np.sign(y[:, None] - y[None])

    def pairs(matrix: np.ndarray) -> np.ndarray:
        return ((weights_RN @ matrix) * weights_RN).sum(axis=1)

    untied = np.sqrt(pairs(np.abs(sign_x)) * pairs(np.abs(sign_y)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(untied > 0, pairs(sign_x * sign_y) / untied, np.nan)


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
