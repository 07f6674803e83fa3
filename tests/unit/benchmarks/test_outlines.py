"""Shapes of masks, on shapes whose numbers are known."""

import numpy as np
import pytest

from echodfkd.core.errors import InputError
from tests.benchmarks.outlines import border_grey, describe, ends, widths

ROWS, COLUMNS = np.mgrid[:112, :112].astype(float)


def cone(top: float, bottom: float, turn: float = 0.0) -> np.ndarray:
    """A cone with its tip at the top, half as wide at the bottom as it is long, turned about the middle by ``turn``."""
    across = (COLUMNS - 56) * np.cos(turn) + (ROWS - 56) * np.sin(turn)
    along = (ROWS - 56) * np.cos(turn) - (COLUMNS - 56) * np.sin(turn) + 56 - top
    return (np.abs(across) < 0.25 * along) & (along >= 0) & (along < bottom - top)


@pytest.mark.parametrize("turn", [0.0, 0.4, -0.4])
def test_widths_of_a_cone_rise_along_it(turn: float) -> None:
    """Within 6 % of its straight line: pixels, and ends that are cut into levels."""
    np.testing.assert_allclose(widths(cone(12, 92, turn)), (np.arange(10) + 0.5) / 9.5, atol=0.06)


def test_what_apex_and_base_move() -> None:
    apex, base = ends(cone(12, 92), cone(20, 84))
    assert (apex, base) == pytest.approx((0.1, 0.1), abs=0.03)


def test_grey_at_the_border_is_taken_over_the_brightest_outside() -> None:
    disc = np.hypot(ROWS - 56, COLUMNS - 56) < 30
    assert border_grey(np.where(disc, 0.0, 100.0), disc) == pytest.approx(0.5, abs=0.1)
    wider = np.hypot(ROWS - 56, COLUMNS - 56) < 34  # dark beyond the border
    assert border_grey(np.where(wider, 0.0, 100.0), disc) == 0.0


def test_clips_are_described_by_their_largest_and_smallest_frames() -> None:
    masks = np.stack([cone(12, 92), cone(16, 88), cone(20, 84)])
    found = describe([(np.where(masks, 0, 100).astype(np.uint8), masks)] * 2)
    assert found["widths"].shape == (2, 10)
    assert found["moved"] == pytest.approx([0.1, 0.1], abs=0.03)
    assert found["grey"].shape == (2,)
    none = np.zeros((2, 112, 112), bool)
    with pytest.raises(InputError, match="300 pixels"):
        describe([(none.astype(np.uint8), none)])
