"""Signals of clips whose right value is known, and the flags that follow from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echodfkd.inference.flags import LIMITS, MOST_DOUBT, doubt_of, find_flags, most_doubt
from echodfkd.inference.signals import mask_signals, picture_signals

SIDE, FPS = 40, 32.0


def sector(frames: int = 32, *, half_degrees: float = 40.0) -> np.ndarray:
    """A sector with its tip at the top, whose grey goes up and down by 60 once a second: uint8 (T, SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    x = x - SIDE / 2
    inside = (np.abs(np.degrees(np.arctan2(x, y))) < half_degrees) & (np.hypot(x, y) < SIDE)
    grey = 100 + 30 * np.sin(2 * math.pi * np.arange(frames) / FPS)
    return (inside * grey[:, None, None]).round().astype(np.uint8)


def test_a_sector_is_lit_moves_has_an_order_and_dark_corners() -> None:
    """A sine of amplitude 30 differs from itself a quarter of a period later by a sine of 30 sqrt(2): 30 on average.

    Means of 2 x 2 pixels take some of it away at the sector's edge.
    """
    video = sector(64)
    found = picture_signals(video, fps=FPS)
    assert found["black"] == pytest.approx((video[0] > 0).mean())
    assert found["sector"] == pytest.approx(0.0, abs=0.02)
    assert found["still"] == pytest.approx(30.0, rel=0.08)
    # Of frames that are a and b apart: (sin(pi a / 32) / sin(pi b / 32))^2, here with 1 and 8; grey levels are whole.
    assert found["order"] == pytest.approx((math.sin(math.pi / 32) / math.sin(math.pi / 4)) ** 2, rel=0.15)


@pytest.mark.parametrize(
    ("name", "video", "value", "tolerance"),
    [
        ("black", np.full((16, SIDE, SIDE), 5, np.uint8), 0.0, 0.0),
        ("still", np.repeat(sector(1), 16, axis=0), 0.0, 0.0),
        ("order", np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE)).astype(np.uint8), 1.0, 0.05),
        ("order", sector(64)[np.random.default_rng(0).permutation(64)], 1.0, 0.3),
        ("sector", sector()[:, ::-1], 0.5, 0.2),
        ("sector", np.full((16, SIDE, SIDE), 99, np.uint8), 1.0, 0.0),
    ],
)
def test_a_picture_that_no_student_knows_has_its_flag(
    name: str, video: np.ndarray, value: float, tolerance: float
) -> None:
    found = picture_signals(video, fps=FPS)
    assert found[name] == pytest.approx(value, abs=tolerance)
    assert name in [flag.name for flag in find_flags(found)]


def mask(frames: int, *, left: int = 10, width: int = 12, prob: float = 0.99) -> np.ndarray:
    """Probabilities of a rectangle of 20 rows."""
    found = np.full((frames, SIDE, SIDE), 0.01, np.float32)
    found[:, 10:30, left : left + width] = prob
    return found


def test_a_mask_that_is_sure_and_stays_has_no_flag() -> None:
    found = mask_signals(mask(8))
    assert found == pytest.approx({"unsure": 0.99, "jumps": 0.0, "parts": 0.0, "small": 0.15, "large": 0.15})
    assert find_flags(found) == ()
    assert most_doubt(found) < 1.0


def test_masks_that_are_unsure_jump_fall_apart_or_have_another_size_have_their_flag() -> None:
    assert mask_signals(mask(4, prob=0.7))["unsure"] == pytest.approx(0.7)
    jumping = mask(6)
    jumping[1::2] = mask(1, left=16)  # half of the rectangle stays: Dice 1/2
    assert mask_signals(jumping)["jumps"] == pytest.approx(0.5)
    torn = mask(4)
    torn[:, 35:39, 5:10] = 0.9  # 20 pixels beside 240
    assert mask_signals(torn)["parts"] == pytest.approx(20 / 260)
    for prob, names in (
        (mask(4, prob=0.7), {"unsure"}),
        (jumping, {"jumps"}),
        (torn, {"parts"}),
        (mask(4, width=1), {"small"}),
        (mask(4, width=25), {"large"}),
    ):
        assert {flag.name for flag in find_flags(mask_signals(prob))} == names


def test_what_cannot_be_measured_is_no_reason() -> None:
    """One frame shows no motion, and an empty mask has no probability."""
    single = picture_signals(sector(1), fps=FPS)
    assert math.isnan(single["order"])
    assert math.isnan(single["still"])
    empty = mask_signals(np.zeros((1, SIDE, SIDE), np.float32))
    assert [name for name, value in empty.items() if math.isnan(value)] == ["unsure", "jumps", "parts"]
    assert [flag.name for flag in find_flags({**single, **empty})] == ["small"]


def test_doubt_is_0_for_a_usual_value_1_at_the_limit_and_bounded() -> None:
    for name, (usual, limit, sentence) in LIMITS.items():
        assert doubt_of(name, usual) == 0.0
        assert doubt_of(name, limit) == pytest.approx(1.0)
        assert doubt_of(name, usual + 0.5 * (limit - usual)) == pytest.approx(0.5)
        assert doubt_of(name, usual - (limit - usual)) == 0.0, "better than usual is no reason"
        assert doubt_of(name, usual + 99.0 * (limit - usual)) == MOST_DOUBT
        assert doubt_of(name, math.nan) == 0.0
        assert "{" not in sentence.format(value=0.5, limit=limit)
    worst_first = find_flags({"unsure": 0.8, "jumps": 0.9, "parts": 0.0})
    assert [flag.name for flag in worst_first] == ["jumps", "unsure"]
    assert "the mean probability in its mask is 0.80, expected at least 0.87" in worst_first[1].sentence
