"""Calibration against a loop over pixels, and against probabilities that are right by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echodfkd.metrics.calibration import reliability


def test_a_loop_over_pixels_says_the_same():
    rng = np.random.default_rng(0)
    prob, truth, known = rng.random((2, 7, 9)), rng.random((2, 7, 9)) < 0.3, rng.random((2, 7, 9)) < 0.8
    prob[0, 0, :3] = (0.0, 1.0, 0.2)  # both ends and an edge
    bins: dict[int, list[tuple[float, float]]] = {}
    for p, t, k in zip(prob.ravel(), truth.ravel(), known.ravel(), strict=True):
        if k:
            bins.setdefault(min(int(p * 5), 4), []).append((p, float(t)))
    count = sum(len(members) for members in bins.values())
    ece = sum(
        len(members) / count * abs(np.mean([p for p, _ in members]) - np.mean([t for _, t in members]))
        for members in bins.values()
    )
    found = reliability(prob, truth, known, num_bins=5)
    assert found.ece == pytest.approx(ece, abs=1e-12)
    assert found.brier == pytest.approx(np.mean([(p - t) ** 2 for m in bins.values() for p, t in m]), abs=1e-12)
    mean, share = found.curve()
    for place, members in bins.items():
        assert mean[place] == pytest.approx(np.mean([p for p, _ in members]), abs=1e-12)
        assert share[place] == pytest.approx(np.mean([t for _, t in members]), abs=1e-12)


def test_true_probabilities_are_calibrated_and_sharpened_ones_are_not():
    rng = np.random.default_rng(1)
    prob = rng.random((40, 100, 100))
    truth = rng.random(prob.shape) < prob
    # 400,000 pixels in 15 bins: a share errs by 0.003.
    assert reliability(prob, truth).ece < 0.005
    assert reliability(prob, truth).brier == pytest.approx(1 / 6, abs=0.002)  # E p (1 - p) of a uniform p
    assert reliability((prob > 0.5).astype(float), truth).ece == pytest.approx(0.25, abs=0.005)


def test_parts_add_up_and_nothing_is_undefined():
    rng = np.random.default_rng(2)
    prob, truth = rng.random((4, 8, 8)), rng.random((4, 8, 8)) < 0.5
    whole, parts = reliability(prob, truth), reliability(prob[:1], truth[:1]) + reliability(prob[1:], truth[1:])
    assert parts.ece == pytest.approx(whole.ece, abs=1e-12)
    assert parts.brier == pytest.approx(whole.brier, abs=1e-12)
    none = reliability(prob, truth, np.zeros_like(truth))
    assert math.isnan(none.ece)
    assert math.isnan(none.brier)
    assert np.isnan(none.curve()[0]).all()
