"""ED, ES and EF from area curves: known answers, and slow or foreign implementations."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import signal, stats

from echodfkd.metrics import cardiac
from echodfkd.metrics.blind_events import detect_events


def test_area_counts_pixels():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, :2, :3] = True
    mask[2] = True
    np.testing.assert_array_equal(cardiac.area_curve(mask), [0, 6, 20])


def slow_frame_near(area: list[float], reference: int, phase: str) -> int | None:
    """The published search in plain Python, written from its description alone."""
    mean, spread = statistics.fmean(area), statistics.pstdev(area)
    score = [(value - mean) / spread for value in area]
    if phase == "ed":
        score = [-value for value in score]
    level = statistics.median(score)
    blocks: list[list[int]] = []
    for t, value in enumerate(score):
        if value < level:
            if blocks and blocks[-1][-1] == t - 1:
                blocks[-1].append(t)
            else:
                blocks.append([t])
    best, best_distance = None, math.inf
    for block in blocks:
        distance = min(abs(block[0] - reference), abs(block[-1] - reference))
        if distance < best_distance:
            best, best_distance = block, distance
    return None if best is None else min(best, key=lambda t: score[t])


@pytest.mark.parametrize("phase", ["ed", "es"])
@pytest.mark.parametrize("seed", range(20))
def test_published_search_agrees_with_plain_python(seed, phase):
    rng = np.random.default_rng(seed)
    t = np.arange(int(rng.integers(20, 70)))
    # Multiples of 1/8 are exact in floating point, so that the two routes see the same ties.
    area = np.round(8 * (500 + 150 * np.cos(2 * np.pi * t / rng.integers(8, 30)) + rng.normal(0, 40, len(t)))) / 8
    for reference in rng.integers(0, len(t), 8):
        assert cardiac.find_frame_near(area, int(reference), phase=phase) == slow_frame_near(
            area.tolist(), int(reference), phase
        )


def test_published_search_by_hand():
    #        0  1  2  3  4  5  6  7  8  9
    area = np.array([9, 9, 2, 1, 2, 9, 9, 0, 3, 9.0])  # median 6: blocks 2..4 and 7..8
    assert cardiac.find_frame_near(area, 3, phase="es") == 3
    assert cardiac.find_frame_near(area, 5, phase="es") == 3  # edge 4 is 1 away, edge 7 is 2
    assert cardiac.find_frame_near(area, 6, phase="es") == 7
    assert cardiac.find_frame_near(area, 9, phase="es") == 7  # edge 8, arg-min 7
    assert cardiac.average_frame_distance(area, [3, 5, 9], phase="es") == pytest.approx((0 + 2 + 2) / 3)
    assert cardiac.find_frame_near(-area, 9, phase="ed") == 7
    assert cardiac.find_frame_near(np.full(9, 4.0), 3, phase="ed") is None
    assert cardiac.find_frame_near(np.full(9, 4.0), 3, phase="ed", at_median=True) == 0
    sparse = np.array([0, 0, 0, 0, 5, 9, 5, 0, 0, 0.0])  # the median is the least value: blocks 0..3 and 7..9 at it
    assert cardiac.find_frame_near(sparse, 5, phase="es") is None
    assert cardiac.find_frame_near(sparse, 5, phase="es", at_median=True) == 0  # edges 3 and 7 are as near
    assert cardiac.find_frame_near(sparse, 6, phase="es", at_median=True) == 7
    assert (
        cardiac.find_frame_near(sparse, 6, phase="ed", at_median=True) == 5
    )  # frames below the median are taken first
    assert math.isnan(cardiac.average_frame_distance(np.full(9, 4.0), [3], phase="ed"))
    assert math.isnan(cardiac.average_frame_distance(area, [], phase="ed"))


def test_the_nearer_edge_counts_even_where_the_reference_lies_inside_a_block():
    area = np.array([1, 2, 2, 2, 2, 2, 2, 9, 0, 9, 9, 9, 9, 9, 9, 9, 9.0])  # blocks 0..6 and 8..8
    assert cardiac.find_frame_near(area, 6, phase="es") == 0
    assert cardiac.find_frame_near(area, 3, phase="es") == 0  # both edges 3 away, the other block 5
    assert cardiac.find_frame_near(area, 8, phase="es") == 8


@pytest.mark.parametrize("fps", [32.0, 50.0])
@pytest.mark.parametrize("bpm", [55, 70, 95, 140])
def test_blind_detection_finds_the_extrema_of_a_beating_curve(fps, bpm):
    period = 60 * fps / bpm
    t = np.arange(round(3.3 * period))
    area = 800 + 250 * np.cos(2 * np.pi * (t - 0.4 * period) / period)
    wanted_ed = 0.4 * period + period * np.arange(3)
    wanted_es = 0.9 * period + period * np.arange(3)
    # Half a frame of rounding, and the preference for the later frame: sin(omega t) = 0.5 / (omega / 2) is 1.5 frames.
    for found, wanted in zip(detect_events(area, fps=fps), (wanted_ed, wanted_es), strict=True):
        np.testing.assert_allclose([f for f in found if f not in (0, len(t) - 1)], wanted, atol=2)


@pytest.mark.parametrize("seed", range(10))
def test_blind_detection_agrees_with_scipy_under_noise(seed):
    rng = np.random.default_rng(seed)
    t = np.arange(120)
    area = 800 + 250 * np.cos(2 * np.pi * (t - 12) / 29) + rng.normal(0, 15, len(t))
    weights = np.array([1, 2, 3, 2, 1]) / 9  # the window for 32 frames per second: half = round(1.6)
    smooth = np.convolve(area, weights, mode="same")
    wanted, _ = signal.find_peaks(smooth, height=(smooth[4:-4].min() + smooth.max()) / 2, distance=11)
    found = detect_events(area, fps=32.0)
    # The same maxima, and at most a frame later: of frames that are nearly equal the later one is taken.
    for events, peaks in ((found.ed_frames, wanted), (found.es_frames, signal.find_peaks(-smooth, distance=11)[0])):
        inner = [f for f in events if 4 < f < 115]
        nearest = [peaks[np.argmin(np.abs(peaks - f))] for f in inner]
        assert np.abs(np.array(inner) - nearest).max() <= 1
    assert len([f for f in found.ed_frames if 4 < f < 115]) == len([f for f in wanted if 4 < f < 115])


def test_blind_detection_at_borders_plateaus_and_constants():
    falling = np.linspace(900, 300, 40)
    assert detect_events(falling, fps=32.0) == ((0,), (39,))
    midway = np.concatenate([np.linspace(700, 300, 20), np.linspace(300, 900, 30), np.linspace(900, 300, 30)])
    assert 0 not in detect_events(midway, fps=32.0).ed_frames  # falls from two thirds: no ED was seen there
    plateau = np.array([0.0] * 20 + [5] * 11 + [0] * 20)
    assert detect_events(plateau, fps=32.0).ed_frames == (28,)  # of 20 .. 30: smoothing rounds the edge over two frames
    assert detect_events(np.full(30, 7.0), fps=32.0) == ((), ())
    assert detect_events(plateau[:2], fps=32.0) == ((), ())


def test_detection_error_is_the_mean_distance_to_the_nearest():
    assert cardiac.detection_error((10, 40), (12, 30, 41)) == pytest.approx((2 + 10 + 1) / 3)
    assert cardiac.detection_error((5,), (5,)) == 0
    assert math.isnan(cardiac.detection_error((), (5,)))
    assert math.isnan(cardiac.detection_error((5,), ()))


def test_area_ef():
    area = np.array([100.0, 50, 80, 40])
    assert cardiac.ejection_fraction(area, [0], [1]) == 50
    assert cardiac.ejection_fraction(area, [0, 2], [1, 3]) == pytest.approx(100 * (90 - 45) / 90)
    assert math.isnan(cardiac.ejection_fraction(area, [], [1]))
    assert math.isnan(cardiac.ejection_fraction(np.zeros(4), [0], [1]))


def test_pearson_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x = rng.normal(55, 12, 40)
    y = 0.6 * x + rng.normal(0, 6, 40)
    assert cardiac.pearson_r(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert cardiac.pearson_r(x, -3 * x + 1) == pytest.approx(-1, abs=1e-12)
    assert math.isnan(cardiac.pearson_r(x, np.ones(40)))
    assert math.isnan(cardiac.pearson_r(x[:1], y[:1]))


def test_mean_absolute_error():
    assert cardiac.mean_absolute_error(np.array([1.0, 5]), np.array([4.0, 3])) == 2.5
    assert math.isnan(cardiac.mean_absolute_error(np.zeros(0), np.zeros(0)))
