"""Bootstrap intervals against scipy, theory and their promises: seeded, NaN left out, n counted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from echodfkd.metrics.cardiac import mean_absolute_error, pearson_r
from echodfkd.metrics.summary import Interval, bootstrap_mean, bootstrap_pairs


def test_mean_and_count_leave_nan_out():
    found = bootstrap_mean(np.array([1.0, math.nan, 3.0, 5.0, math.nan]))
    assert (found.mean, found.n) == (3.0, 3)
    assert 1 <= found.low < 3 < found.high <= 5


def test_same_values_and_seed_give_the_same_interval():
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


@pytest.mark.parametrize("count", [12, 200, 3000])
def test_interval_agrees_with_scipy(count):
    values = np.random.default_rng(count).gamma(2.0, size=count)
    found = bootstrap_mean(values)
    rng = np.random.default_rng(99)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=rng, batch=100)
    # Ends of 2,000 resamples scatter by 0.06 standard errors; 0.3 is more than three times what two of them differ by.
    error = values.std() / math.sqrt(count)
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.3 * error)
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.3 * error)


@pytest.mark.parametrize("count", [9, 40, 400])
def test_bca_agrees_with_scipy(count):
    values = np.random.default_rng(count).lognormal(0.0, 1.0, count)
    found = bootstrap_mean(values, method="bca", num_resamples=6000)
    rng = np.random.default_rng(99)
    wanted = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=6000, rng=rng, batch=200)
    # BCa takes the upper end from the sparse tail of the draws: two runs of scipy's differ by up to 0.15 errors there.
    error = values.std() / math.sqrt(count)
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.3 * error)
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.3 * error)
    plain = bootstrap_mean(values, num_resamples=6000)
    assert found.high > plain.high  # the long tail is on this side
    assert (found.mean, found.n) == (plain.mean, plain.n)


def test_bca_of_pairs_agrees_with_scipy_and_degenerates_to_the_percentile_interval():
    rng = np.random.default_rng(1)
    x = rng.normal(55, 12, 25)
    y = x + rng.normal(0, 9, 25)
    found = bootstrap_pairs(pearson_r, x, y, method="bca")
    wanted = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, method="BCa",
        n_resamples=1000, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.05)  # its own width is near 0.35
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.05)
    for values in ([0.25], [0.5, 0.5, 0.5]):
        assert bootstrap_mean(np.array(values), method="bca") == bootstrap_mean(np.array(values))


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for seed in range(300):
        found = bootstrap_mean(rng.normal(2.0, 1.0, 40), seed=seed, num_resamples=400)
        hits += found.low <= 2.0 <= found.high
    # Percentile intervals of 40 values cover about 94 %; 300 trials scatter by 1.4 %.
    assert 0.89 < hits / 300 < 0.985


def test_no_value_and_one_value():
    none = bootstrap_mean(np.array([math.nan]))
    assert none.n == 0
    assert json.dumps(none.to_json(), allow_nan=False) == '{"mean": null, "low": null, "high": null, "n": 0}'
    assert bootstrap_mean(np.array([0.25])) == Interval(0.25, 0.25, 0.25, 1)


def test_pairs_are_resampled_together():
    rng = np.random.default_rng(1)
    x = rng.normal(55, 12, 60)
    y = x + rng.normal(0, 5, 60)
    found = bootstrap_pairs(pearson_r, np.append(x, math.nan), np.append(y, 1.0))
    wanted = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, method="percentile",
        n_resamples=1000, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert (found.n, found.mean) == (60, pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12))
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.02)  # its own width is near 0.1
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.02)
    shifted = bootstrap_pairs(mean_absolute_error, x, x + 3)
    assert (shifted.mean, shifted.low, shifted.high) == pytest.approx((3, 3, 3), abs=1e-12)


def test_an_undefined_statistic_is_undefined():
    found = bootstrap_pairs(pearson_r, np.array([1.0]), np.array([2.0]))
    assert math.isnan(found.mean)
    assert found.n == 1
    three = bootstrap_pairs(pearson_r, np.array([1.0, 2, 4]), np.array([1.0, 3, 3]))
    assert three.low <= three.mean <= three.high  # resamples of one repeated pair were left out
