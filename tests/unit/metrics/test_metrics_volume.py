"""Volumes of one plane against ellipsoids and cones, whose volumes are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echodfkd.metrics.cardiac import ejection_fraction
from echodfkd.metrics.spacing import spacing_of
from echodfkd.metrics.volume import area_length_volume, simpson_volume


def ellipse(half_length: float, half_width: float, angle: float, size: int = 160) -> np.ndarray:
    row, column = np.mgrid[:size, :size] - (size - 1) / 2
    along = column * math.sin(angle) + row * math.cos(angle)
    across = column * math.cos(angle) - row * math.sin(angle)
    return (along / half_length) ** 2 + (across / half_width) ** 2 <= 1


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2])
@pytest.mark.parametrize(("half_length", "half_width"), [(60, 30), (40, 25), (22, 12)])
def test_an_ellipsoid_of_revolution(half_length, half_width, angle):
    mask = ellipse(half_length, half_width, angle)[None]
    truth = 4 / 3 * math.pi * half_length * half_width**2
    # The border's pixels err by half a pixel of 12 at the smallest: its square by some 2 %, measured below that.
    assert area_length_volume(mask)[0] == pytest.approx(truth, rel=0.02)
    assert simpson_volume(mask)[0] == pytest.approx(truth, rel=0.02)
    assert simpson_volume(mask, spacing=0.5)[0] == pytest.approx(simpson_volume(mask)[0] / 8, rel=1e-12)
    assert area_length_volume(mask, spacing=0.5)[0] == pytest.approx(area_length_volume(mask)[0] / 8, rel=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2])
@pytest.mark.parametrize("spacing", [(0.8, 0.5), (0.25, 0.5)])
def test_pixels_that_are_not_square_measure_the_same_ellipsoid(angle, spacing):
    """Half axes of 30 and 15 mm, on pixels of this height and width; a border errs by half of the larger side."""
    down, across = spacing
    row, column = (np.mgrid[: round(70 / down), : round(70 / across)] + 0.5) * np.reshape(spacing, (2, 1, 1)) - 35
    along = column * math.sin(angle) + row * math.cos(angle)
    aside = column * math.cos(angle) - row * math.sin(angle)
    mask = ((along / 30) ** 2 + (aside / 15) ** 2 <= 1)[None]
    truth = 4 / 3 * math.pi * 30 * 15**2
    assert area_length_volume(mask, spacing=spacing)[0] == pytest.approx(truth, rel=0.02)
    assert simpson_volume(mask, spacing=spacing)[0] == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize(
    ("sides", "spacing"),
    [((0.5, 0.5), 0.5), ((0.5, 0.504), 0.502), ((0.8, 0.5), (0.8, 0.5)), ((0.5, 1.9), (0.5, 1.9)), ((0.5, 2.1), None)],
)
def test_a_pixel_is_square_stretched_or_impossible(sides, spacing):
    assert spacing_of(*sides) == (spacing if isinstance(spacing, tuple) else pytest.approx(spacing))


def test_a_cone_separates_the_two_formulas():
    """A triangle turned about its axis: pi r^2 h / 3. Discs see its shape; area-length takes it for an ellipse."""
    row, column = np.mgrid[:200, :200]
    mask = (row >= 20) & (row < 180) & (np.abs(column - 100) <= (row - 20) / 160 * 50)
    truth = math.pi * 50**2 * 160 / 3
    assert simpson_volume(mask[None])[0] == pytest.approx(truth, rel=0.03)
    length = 4 * 160 / math.sqrt(18)  # a triangle's variance along its height h is h^2 / 18
    assert area_length_volume(mask[None])[0] == pytest.approx(8 * (50 * 160) ** 2 / (3 * math.pi * length), rel=0.02)


def test_ejection_fraction_and_empty_masks():
    large, small = ellipse(40, 25, 0.1), ellipse(36, 18, 0.1)
    truth = 100 * (1 - 36 * 18**2 / (40 * 25**2))
    masks = np.stack([large, small, large, np.zeros_like(large)])
    for volume in (area_length_volume(masks), simpson_volume(masks)):
        assert volume[3] == 0
        assert ejection_fraction(volume, [0, 2], [1]) == pytest.approx(truth, abs=1.5)
        assert math.isnan(ejection_fraction(volume, [3], [1]))
        assert math.isnan(ejection_fraction(volume, [], [1]))
        assert math.isnan(ejection_fraction(volume, [0], []))
    point = np.zeros((1, 8, 8), bool)
    point[0, 3, 3] = True
    assert simpson_volume(point)[0] == pytest.approx(math.pi / 4, rel=0.05)  # one pixel: a cylinder
    assert area_length_volume(point)[0] == 0  # one point has no length
    assert simpson_volume(point[:0]).shape == (0,)
