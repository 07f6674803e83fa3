import numpy as np
import pytest
import skimage.draw

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.tracing import NUM_CHORDS, mask_to_tracing, order_by_area, traced_mask, tracing_to_mask


def fill_with_skimage(rows, height, width):
    x = np.rint(np.concatenate([rows[1:, 0], rows[:0:-1, 2]]))
    y = np.rint(np.concatenate([rows[1:, 1], rows[:0:-1, 3]]))
    mask = np.zeros((height, width), bool)
    mask[skimage.draw.polygon(y, x, (height, width))] = True
    return mask


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def heart(size, tilt_degrees, length, width):
    """Half an ellipse with a flat base: the shape of a left ventricle in an apical view."""
    y, x = np.mgrid[:size, :size].astype(float)
    angle = np.deg2rad(tilt_degrees)
    along = (x - size / 2) * np.sin(angle) + (y - size / 2) * np.cos(angle)
    across = (x - size / 2) * np.cos(angle) - (y - size / 2) * np.sin(angle)
    return (np.hypot((along - length / 3) / length, across / width) <= 1) & (along < length / 3)


@pytest.mark.parametrize("seed", range(30))
def test_fill_is_skimages(seed):
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-8, 40, (rng.integers(3, 22), 4))  # crossing itself and leaving the image, too
    assert np.array_equal(tracing_to_mask(rows, 32, 30), fill_with_skimage(rows, 32, 30))


@pytest.mark.parametrize("size", [56, 64, 112])
@pytest.mark.parametrize("tilt", [-40, 0, 15, 45, 80])
def test_a_mask_survives_its_tracing(size, tilt):
    for length, width in ((0.5, 0.22), (0.35, 0.12), (0.3, 0.28)):
        mask = heart(size, tilt, length * size, width * size)
        rows = mask_to_tracing(mask)
        assert rows.shape == (1 + NUM_CHORDS, 4)
        assert dice(tracing_to_mask(rows, size, size), mask) >= 0.95


def test_chords_cross_the_long_axis_at_right_angles():
    rows = mask_to_tracing(heart(112, 20, 50, 22))
    axis = rows[0, 2:] - rows[0, :2]
    chords = rows[1:, 2:] - rows[1:, :2]
    assert axis[1] > 0  # apex first
    assert np.abs(chords @ axis).max() < 1e-9 * np.linalg.norm(axis) * np.linalg.norm(chords, axis=1).max()


def test_a_single_pixel_has_a_tracing():
    mask = np.zeros((8, 8), bool)
    mask[3, 5] = True
    assert np.array_equal(tracing_to_mask(mask_to_tracing(mask), 8, 8), mask)


def test_tracings_without_area_are_refused():
    with pytest.raises(ClipError, match="a tracing of 2 rows has no area; expected a long axis and at least 2 chords"):
        tracing_to_mask(np.zeros((2, 4)), 8, 8)
    with pytest.raises(ClipError, match="a coordinate that is not a number"):
        tracing_to_mask(np.full((5, 4), np.nan), 8, 8)


def test_diastole_is_the_larger_area_wherever_it_stands():
    small, large = heart(64, 0, 20, 8), heart(64, 0, 30, 14)
    assert order_by_area({7: small, 20: large}) == (20, 7)
    assert order_by_area({20: large, 7: small}) == (20, 7)
    assert order_by_area({7: large, 20: small}) == (7, 20)


def test_a_contour_of_many_whole_numbered_points_is_its_ellipse():
    """As machines write contours: hundreds of points, many of them twice after rounding, and open at its ends."""
    angle = np.linspace(0, 2 * np.pi, 600)[:-2]
    points = np.stack([56 + 22 * np.cos(angle), 60 + 35 * np.sin(angle)], axis=1).astype(np.int64).astype(float)
    mask = traced_mask(points, 112, 112)
    assert np.array_equal(mask, tracing_to_mask(points, 112, 112))
    y, x = np.mgrid[:112, :112]
    assert dice(mask, np.hypot((x - 55.6) / 22, (y - 59.6) / 35) <= 1) > 0.97
    with pytest.raises(ClipError, match=r"^a tracing has 1196 rows; expected at most 1000$"):
        traced_mask(np.concatenate([points, points]), 112, 112)


def test_an_axis_without_length_is_none() -> None:
    """The square of its length is no number above 0."""
    rows = mask_to_tracing(np.hypot(*(np.mgrid[:64, :64] - 32)) < 14)
    rows[0] = [32, 32, 32, 32 + 1e-170]
    with np.errstate(all="raise"):
        assert traced_mask(rows, 64, 64).sum() > 500
