"""Distances between borders: by hand, closed forms, MONAI, and the rule for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from echodfkd.metrics.surface import border, surface_distance


def disc(size: int, x: float, y: float, radius: float) -> np.ndarray:
    row, column = np.mgrid[:size, :size]
    return np.hypot(column - x, row - y) <= radius


def test_two_squares_by_hand():
    a, b = np.zeros((2, 1, 9, 9), bool)
    a[0, 2:5, 2:5] = True  # 8 border pixels
    b[0, 2:5, 4:7] = True  # the same, two to the right
    # Of a's border, the two columns that b has at 4 lie at 0 (3 pixels), 2 (3 pixels at x = 2), 1 (2 at x = 3).
    wanted = [0, 0, 0, 2, 2, 2, 1, 1]
    found = surface_distance(a, b)
    assert found.assd[0] == pytest.approx(np.mean(wanted), abs=1e-12)
    assert found.hd95[0] == pytest.approx(np.percentile(wanted, 95), abs=1e-12)
    assert surface_distance(a, a).hd95[0] == surface_distance(a, a).assd[0] == 0


def test_concentric_discs_lie_the_difference_of_radii_apart():
    found = surface_distance(disc(200, 100, 100, 80), disc(200, 100, 100, 60), spacing=0.25)
    # Borders on pixels wander by up to one pixel (0.25 mm) around the circles.
    assert found.hd95 == pytest.approx(5.0, abs=0.25)
    assert found.assd == pytest.approx(5.0, abs=0.25)


@pytest.mark.parametrize("spacing", [1.0, 0.37, (0.8, 0.5)])
def test_agreement_with_monai(spacing):
    metrics = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 12, 40, 40)), (0, 0, 3, 3))
    a, b = noise > rng.uniform(-0.03, 0.1, (2, 12, 1, 1))
    assert a.any((1, 2)).all()
    assert b.any((1, 2)).all()
    found = surface_distance(a, b, spacing=spacing)
    inputs = [torch.from_numpy(mask)[:, None].float() for mask in (a, b)]
    hd95 = metrics.compute_hausdorff_distance(*inputs, include_background=True, percentile=95, spacing=spacing)
    assd = metrics.compute_average_surface_distance(*inputs, include_background=True, symmetric=True, spacing=spacing)
    np.testing.assert_allclose(found.hd95, hd95[:, 0].numpy(), atol=1e-5)  # float32 there
    np.testing.assert_allclose(found.assd, assd[:, 0].numpy(), atol=1e-5)


def test_empty_masks_and_leading_axes():
    masks = np.zeros((2, 3, 30, 40), bool)
    masks[0, 1, 5:9, 5:9] = True
    found = surface_distance(masks, np.zeros_like(masks), spacing=0.5)
    assert found.hd95.shape == found.assd.shape == (2, 3)
    assert found.hd95.tolist() == found.assd.tolist() == [[0, 25, 0], [0, 0, 0]]  # the diagonal of 30 x 40
    wide = surface_distance(masks[0, 1], np.zeros_like(masks[0, 1]), spacing=(0.4, 0.4 / 3))
    assert wide.hd95 == wide.assd == pytest.approx(math.hypot(12, 16 / 3))
    back = surface_distance(np.zeros_like(masks), masks, spacing=0.5)
    np.testing.assert_array_equal(back.hd95, found.hd95)
    assert surface_distance(masks[:0], masks[:0]).hd95.shape == (0, 3)


def test_border_equals_erosion_and_a_large_frame_is_compared_in_blocks():
    mask = np.random.default_rng(1).random((50, 60)) < 0.7
    cross = ndimage.generate_binary_structure(2, 1)
    np.testing.assert_array_equal(border(mask), mask & ~ndimage.binary_erosion(mask, cross))
    a, b = disc(700, 350, 350, 300), disc(700, 350, 340, 300)
    assert border(a).sum() > 1024
    to_b = ndimage.distance_transform_edt(~border(b))[border(a)]
    to_a = ndimage.distance_transform_edt(~border(a))[border(b)]
    found = surface_distance(a, b)
    assert found.assd == pytest.approx(np.concatenate([to_a, to_b]).mean(), abs=1e-9)
    assert found.hd95 == pytest.approx(max(np.percentile(to_a, 95), np.percentile(to_b, 95)), abs=1e-9)
