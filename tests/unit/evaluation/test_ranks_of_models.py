"""Whether two scores rank models alike, against scipy on the means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from echodfkd.evaluation.agreement import CLOSE_DICE, JudgedMask, agreement_of
from echodfkd.metrics.ranks import ranking_agreement


def scores(models: int = 9, cases: int = 12):
    rng = np.random.default_rng(3)
    quality = np.linspace(0.2, 0.9, models)[:, None]
    y = quality + 0.05 * rng.normal(size=(models, cases))
    return 2 * quality + 0.3 * rng.normal(size=(models, cases)), y


def test_the_numbers_are_scipys_of_the_means():
    x, y = scores()
    x[2, 3], y[4, 5] = np.nan, np.nan  # a case without one score counts in neither mean
    found = ranking_agreement(x, y, seed=0)
    known = np.isfinite(x) & np.isfinite(y)
    mean_x, mean_y = (np.nanmean(np.where(known, z, np.nan), axis=1) for z in (x, y))
    assert found.spearman.mean == pytest.approx(stats.spearmanr(mean_x, mean_y).statistic, abs=1e-12)
    assert found.kendall.mean == pytest.approx(stats.kendalltau(mean_x, mean_y).statistic, abs=1e-12)
    assert found.spearman.n == 9
    assert found.spearman.low <= found.spearman.mean <= found.spearman.high
    # The interval is that of a bootstrap over cases: the same draws, done by hand.
    drawn = np.random.default_rng(0).integers(0, 12, (2000, 12))
    by_hand = [
        stats.spearmanr(
            np.nanmean(np.where(known, x, np.nan)[:, d], 1), np.nanmean(np.where(known, y, np.nan)[:, d], 1)
        )
        for d in drawn[:200]
    ]
    assert abs(np.mean([r.statistic for r in by_hand]) - found.spearman.mean) < 0.1
    few = ranking_agreement(x, y, seed=0, num_resamples=200)
    low, high = np.percentile([r.statistic for r in by_hand], [2.5, 97.5])
    assert (few.spearman.low, few.spearman.high) == pytest.approx((low, high), abs=1e-12)


def test_models_that_cannot_be_ranked():
    x, y = scores()
    assert np.isnan(ranking_agreement(x[:1], y[:1]).spearman.mean)
    assert ranking_agreement(x[:0], y[:0]).kendall.n == 0
    assert ranking_agreement(np.full((4, 5), np.nan), np.ones((4, 5))).spearman.n == 0
    assert np.isnan(ranking_agreement(np.ones((4, 5)), y[:4, :5]).kendall.mean)


def test_students_that_are_close_are_ranked_apart():
    quality = {"bad": 0.3, "good": 0.9, "better": 0.95, "fair": 0.95 - CLOSE_DICE + 0.001}
    rows = [
        JudgedMask(f"c{case}", name, False, value, value if name != "fair" else 2.0)
        for case in range(3)
        for name, value in quality.items()
    ]
    rows += [JudgedMask(f"c{case}", "eroded 4", True, 0.99, 0.0) for case in range(3)]
    found = agreement_of("judge", rows).ranking
    assert {name: agreement.spearman.n for name, agreement in found.items()} == {"all": 5, "students": 4, "close": 3}
    # Dice puts fair < good < better, the judge good < better < fair: ranks (1, 2, 3) and (3, 1, 2).
    assert found["close"].spearman.mean == pytest.approx(-0.5, abs=1e-12)
    assert found["students"].spearman.mean == pytest.approx(stats.spearmanr([1, 3, 4, 2], [1, 2, 3, 4]).statistic)
    assert agreement_of("judge", []).ranking["close"].spearman.n == 0
