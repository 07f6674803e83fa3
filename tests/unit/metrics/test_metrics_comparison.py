"""Paired tests, limits of agreement, rank agreement and strata, against scipy and by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from echodfkd.metrics.comparison import (
    bias,
    holm,
    intraclass_correlation,
    lower_limit,
    paired_test,
    upper_limit,
)
from echodfkd.metrics.ranks import kendall, rank_agreement, spearman
from echodfkd.metrics.strata import strata_of
from tests.helpers.variance import icc_by_anova


def test_a_paired_test_sees_a_small_difference_that_hard_cases_would_hide():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.5, 0.9, 30)
    a = {f"case{i}": hard[i] + 0.02 + 0.01 * rng.normal() for i in range(30)}
    b = {f"case{i}": hard[i] for i in range(30)} | {"only b": 0.1, "case3": math.nan}
    found = paired_test(a, b)
    gaps = np.array([a[case] - b[case] for case in sorted(a) if case != "case3"])
    assert found.difference.mean == pytest.approx(gaps.mean(), abs=1e-12)
    assert (found.difference.n, found.left_out) == (29, 2)
    assert found.wilcoxon_p == stats.wilcoxon(gaps, method="exact").pvalue
    assert found.difference.low > 0.01
    back = paired_test(b, a)
    assert back.difference.mean == pytest.approx(-found.difference.mean, abs=1e-12)
    assert back.wilcoxon_p == pytest.approx(found.wilcoxon_p, rel=1e-12)


def test_a_pair_of_equals_and_no_pair():
    same = paired_test({"x": 0.5, "y": 0.7}, {"x": 0.5, "y": 0.7})
    assert (same.wilcoxon_p, same.difference.mean) == (1.0, 0.0)
    none = paired_test({"x": 0.5}, {"y": 0.5})
    assert math.isnan(none.wilcoxon_p)
    assert json.loads(json.dumps(none.to_json(), allow_nan=False)) == {
        "difference": {"mean": None, "low": None, "high": None, "n": 0}, "wilcoxon_p": None, "left_out": 2,
    }  # fmt: skip


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, math.nan]) == pytest.approx([0.03, 0.06, 0.06, math.nan], nan_ok=True)
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_limits_of_agreement_by_hand_and_in_theory():
    predicted, reference = np.array([52.0, 60, 41]), np.array([50.0, 61, 36])
    sd = math.sqrt(((2 - 2) ** 2 + (-1 - 2) ** 2 + (5 - 2) ** 2) / 2)
    assert bias(predicted, reference) == 2
    assert lower_limit(predicted, reference) == pytest.approx(2 - 1.96 * sd)
    assert upper_limit(predicted, reference) == pytest.approx(2 + 1.96 * sd)
    rng = np.random.default_rng(1)
    truth = rng.normal(55, 10, (2, 20_000))
    measured = truth + rng.normal(3, 4, truth.shape)
    # The ends scatter by sqrt(3 s^2 / n) = 0.05 (Bland and Altman 1986).
    assert lower_limit(measured, truth) == pytest.approx([3 - 1.96 * 4] * 2, abs=0.2)
    assert upper_limit(measured, truth) == pytest.approx([3 + 1.96 * 4] * 2, abs=0.2)
    assert math.isnan(lower_limit(np.array([1.0]), np.array([2.0])))
    assert math.isnan(bias(np.array([]), np.array([])))


def test_intraclass_correlation_is_that_of_the_analysis_of_variance():
    """The reference has Shrout and Fleiss's own example, of which they give ICC(2,1) = 0.29 (Table 4)."""
    judges = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], np.float64)
    assert icc_by_anova(judges) == pytest.approx(0.29, abs=0.005)
    rng = np.random.default_rng(0)
    truth = rng.normal(55, 10, (3, 40))
    measured = truth + rng.normal(3, 4, truth.shape)
    wanted = [icc_by_anova(np.stack(pair, axis=1)) for pair in zip(measured, truth, strict=True)]
    assert intraclass_correlation(measured, truth) == pytest.approx(wanted)
    assert intraclass_correlation(truth, truth) == pytest.approx([1.0] * 3)
    assert intraclass_correlation(truth + 20, truth).max() < 0.5, "r is 1"
    for undefined in ([], [1.0], [2.0, 2.0]):
        assert math.isnan(intraclass_correlation(np.array(undefined), np.array(undefined)))


@pytest.mark.parametrize("seed", range(4))
def test_rank_correlations_equal_scipy_with_ties(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, 50).astype(float), rng.integers(0, 9, 50).astype(float)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)


def test_rank_correlations_of_nothing():
    for statistic in (spearman, kendall):
        assert math.isnan(statistic(np.array([1.0]), np.array([2.0])))
        assert math.isnan(statistic(np.ones(4), np.arange(4.0)))
    assert rank_agreement(np.array([math.nan]), np.array([1.0]), ["a"]).spearman.n == 0


def test_agreement_draws_whole_cases():
    """Against a loop with scipy over the same draws; and an interval over cases is wider than one over masks."""
    rng = np.random.default_rng(5)
    cases = np.repeat([f"c{i}" for i in range(8)], 6)
    level = np.repeat(rng.normal(0, 2, 8), 6)
    x = level + rng.normal(0, 1, 48)
    y = level + rng.normal(0, 1, 48)
    found = rank_agreement(x, y, cases, seed=3, num_resamples=200)
    drawn = np.random.default_rng(3).integers(0, 8, (200, 8))
    things = [np.concatenate([np.arange(6 * c, 6 * c + 6) for c in draw]) for draw in drawn]
    for interval, foreign in ((found.spearman, stats.spearmanr), (found.kendall, stats.kendalltau)):
        draws = [foreign(x[i], y[i]).statistic for i in things]
        assert interval.mean == pytest.approx(foreign(x, y).statistic, abs=1e-12)
        assert (interval.low, interval.high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=1e-10)
        assert interval.n == 48
    inside = [stats.spearmanr(x[6 * c : 6 * c + 6], y[6 * c : 6 * c + 6]).statistic for c in range(8)]
    assert found.within_case.mean == pytest.approx(np.mean(inside), abs=1e-12)
    assert found.within_case.n == 8
    apart = rank_agreement(x, y, [str(i) for i in range(48)], seed=3, num_resamples=200)
    assert found.spearman.high - found.spearman.low > apart.spearman.high - apart.spearman.low
    json.dumps(found.to_json(), allow_nan=False)


def test_strata_hold_their_lower_edge_and_leave_the_unknown_out():
    found = strata_of(
        {
            "ef_percent": [20.0, 40.0, None, 49.9, 50.0, math.nan],
            "view": ["A4C", "A2C", None, "A4C", "A4C", "A4C"],
            "sex": ["F"] * 6,
            "age_years": [None] * 6,
            "fps": [1, 2, 3, 4, 5, 6],
        }
    )
    assert {name: {k: v.tolist() for k, v in groups.items()} for name, groups in found.items()} == {
        "ef_percent": {"< 40": [0], "40 .. 50": [1, 3], ">= 50": [4]},
        "view": {"A2C": [1], "A4C": [0, 3, 4, 5]},
    }
