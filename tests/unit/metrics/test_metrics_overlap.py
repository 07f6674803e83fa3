"""Dice, IoU and temporal Dice against tables worked by hand, closed forms and loops over sets of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echodfkd.metrics.overlap import dice, iou
from echodfkd.metrics.temporal import area_jitter, temporal_dice

EMPTY = [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("a", "b", "dice_wanted", "iou_wanted"),
    [
        ([[1, 1], [0, 0]], [[1, 1], [0, 0]], 1, 1),
        ([[1, 1], [0, 0]], [[0, 0], [1, 1]], 0, 0),
        ([[1, 1], [0, 0]], [[1, 0], [1, 0]], 2 / 4, 1 / 3),
        ([[1, 1], [1, 1]], [[1, 0], [0, 0]], 2 / 5, 1 / 4),
        ([[1, 1], [1, 0]], [[1, 1], [0, 0]], 4 / 5, 2 / 3),
        (EMPTY, EMPTY, 1, 1),
        (EMPTY, [[1, 0], [0, 0]], 0, 0),
        ([[1, 0], [0, 0]], EMPTY, 0, 0),
    ],
)
def test_table_by_hand(a, b, dice_wanted, iou_wanted):
    a_mask, b_mask = np.array(a, bool), np.array(b, bool)
    assert dice(a_mask, b_mask) == pytest.approx(dice_wanted, abs=1e-15)
    assert iou(a_mask, b_mask) == pytest.approx(iou_wanted, abs=1e-15)


@pytest.mark.parametrize(
    ("first", "second", "distance"), [(150, 150, 120), (150, 100, 60), (150, 60, 40), (90, 80, 400)]
)
def test_two_discs_have_the_overlap_of_geometry(first, second, distance):
    y, x = np.mgrid[:500, :900] + 0.5
    a_mask = np.hypot(x - 250, y - 250) < first
    b_mask = np.hypot(x - 250 - distance, y - 250) < second
    a_area, b_area, both = math.pi * first**2, math.pi * second**2, lens(first, second, distance)
    # A disc of radius r on pixels errs by about sqrt(r) of its pi r^2 pixels: below 5e-4 here.
    assert dice(a_mask, b_mask) == pytest.approx(2 * both / (a_area + b_area), abs=1e-3)
    assert iou(a_mask, b_mask) == pytest.approx(both / (a_area + b_area - both), abs=1e-3)


def lens(r: float, s: float, d: float) -> float:
    """Area common to two discs of radii r and s whose centres lie d apart."""
    if d >= r + s:
        return 0.0
    if d <= abs(r - s):
        return math.pi * min(r, s) ** 2
    a = r * r * math.acos((d * d + r * r - s * s) / (2 * d * r))
    b = s * s * math.acos((d * d + s * s - r * r) / (2 * d * s))
    return a + b - 0.5 * math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s))


def test_leading_axes_are_independent_and_agree_with_sets_of_pixels():
    rng = np.random.default_rng(0)
    a_mask, b_mask = rng.random((2, 3, 4, 7, 5)) < rng.uniform(0.2, 1, (3, 4, 1, 1))
    found_dice, found_iou = dice(a_mask, b_mask), iou(a_mask, b_mask)
    assert found_dice.shape == found_iou.shape == (3, 4)
    for i, j in np.ndindex(3, 4):
        a = {tuple(p) for p in np.argwhere(a_mask[i, j])}
        b = {tuple(p) for p in np.argwhere(b_mask[i, j])}
        assert found_dice[i, j] == pytest.approx(2 * len(a & b) / (len(a) + len(b)), abs=1e-15)
        assert found_iou[i, j] == pytest.approx(len(a & b) / len(a | b), abs=1e-15)
        assert found_dice[i, j] == pytest.approx(2 * found_iou[i, j] / (1 + found_iou[i, j]), abs=1e-15)


def test_dice_agrees_with_monai():
    monai_metrics = pytest.importorskip("monai.metrics")
    import torch

    rng = np.random.default_rng(1)
    a_mask, b_mask = rng.random((2, 6, 16, 16)) < 0.4
    wanted = monai_metrics.compute_dice(
        torch.from_numpy(a_mask)[:, None].float(), torch.from_numpy(b_mask)[:, None].float()
    )
    np.testing.assert_allclose(dice(a_mask, b_mask), wanted[:, 0].numpy(), atol=1e-6)  # float32 there


def test_temporal_dice_is_the_mean_over_neighbours():
    frames = np.array([[[1, 1], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]], bool)
    assert temporal_dice(frames) == pytest.approx((1 + 2 / 3 + 0 + 1) / 4, abs=1e-15)
    assert temporal_dice(np.repeat(frames[:1], 9, axis=0)) == 1
    assert math.isnan(temporal_dice(frames[:1]))


def test_area_jitter_is_the_ratio_of_second_differences():
    """Areas by the number of pixels set in a row; the second differences are written beside them."""

    def frames(areas: list[int]) -> np.ndarray:
        return np.array([[[x < area for x in range(10)]] for area in areas])

    truth = frames([4, 6, 9, 9, 8])  # 1, -3, -1
    flicker = frames([4, 8, 4, 8, 4])  # -8, 8, -8
    assert area_jitter(flicker, truth) == pytest.approx(math.sqrt(64 / (11 / 3)), abs=1e-12)
    assert area_jitter(truth, truth) == 1
    assert area_jitter(frames([5] * 5), truth) == 0
    assert math.isnan(area_jitter(flicker, frames([4, 5, 6, 7, 8])))
    assert math.isnan(area_jitter(truth[:2], truth[:2]))
