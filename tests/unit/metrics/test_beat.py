"""Phase and ejection fraction out of masks: ellipses of known volume, and clips that do not tell."""

import numpy as np
import pytest

from echodfkd.losses.targets import EF_BETA
from echodfkd.metrics.beat import MIN_EXCURSION, area_length_ef, beat_targets, find_beat, long_axis
from echodfkd.models.teachers.build import build_teacher
from echodfkd.sources.phantom.source import default_phantom
from tests.helpers.teachers import lv_prob

FPS = 24.0


def ellipse(half_width: float, half_length: float, angle: float = 0.0, size: int = 64) -> np.ndarray:
    """Probability (size, size) of an ellipse with an edge one pixel wide, off the centre of the frame."""
    y, x = np.mgrid[:size, :size] - np.array([size / 2 + 1.3, size / 2 - 2.7])[:, None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = np.hypot(u / half_width, v / half_length)
    return np.clip((1 - radius) * half_width + 0.5, 0, 1)


def beating(seconds: float, *, rate: float, shrink: float = 0.3, start: float = 0.0) -> np.ndarray:
    """Masks (T, 64, 64): half axes 12 and 20 at ED; the width loses ``shrink`` of it, the length a third as much."""
    t = start + np.arange(round(seconds * FPS)) / FPS
    squeeze = shrink * (1 - np.cos(2 * np.pi * rate / 60 * t)) / 2
    return np.stack([ellipse(12 * (1 - s), 20 * (1 - s / 3), angle=0.3) for s in squeeze]).astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.5, -2.0])
def test_the_long_axis_is_a_quarter_of_an_ellipses_length_at_any_angle(angle: float) -> None:
    """Second moments of a uniform ellipse are a^2 / 4 along its axis; 1 % for the pixels at the edge."""
    masks = np.stack([ellipse(8, 16, angle), ellipse(10, 20, angle)])
    np.testing.assert_allclose(long_axis(masks), [8, 10], rtol=0.01)


def test_an_empty_mask_has_no_axis() -> None:
    assert np.isnan(long_axis(np.zeros((2, 8, 8)))).all()


def test_ef_is_that_of_ellipsoids() -> None:
    """V = 4/3 pi a^2 b of an ellipsoid with half axes a, a, b, whose section has area pi a b: a multiple of A^2 / L."""
    sides = np.array([[12.0, 20.0], [8.4, 18.0]])
    area = np.pi * sides[:, 0] * sides[:, 1]
    expected = 1 - (8.4**2 * 18) / (12**2 * 20)
    assert area_length_ef(area, sides[:, 1], (0,), (1,)) == pytest.approx(expected, abs=1e-12)
    drawn = np.stack([ellipse(*pair) for pair in sides])
    # 0.01: pixels at the edge
    assert area_length_ef(drawn.sum((1, 2)), long_axis(drawn), (0,), (1,)) == pytest.approx(expected, abs=0.01)
    assert np.isnan(area_length_ef(area, sides[:, 1], (1,), (0,)))  # it grew


def test_targets_of_a_clip_with_whole_beats() -> None:
    masks = beating(2.0, rate=75)
    phase, ef = beat_targets(masks[None], fps=FPS)
    assert (phase.dtype, ef.dtype, phase.shape, ef.shape) == (np.float32, np.float32, (1, 48), (1,))
    area = masks.sum((1, 2))
    np.testing.assert_allclose(phase[0], (area - area.min()) / (area.max() - area.min()), atol=1e-5)
    assert phase.min() == 0
    assert phase.max() == 1
    # 0.02: edges, and 24 frames per second rarely hit the very end of a beat
    assert ef[0] == pytest.approx(1 - 0.7**2 * 0.9, abs=0.02)


def test_clips_of_one_batch_do_not_influence_each_other() -> None:
    good, still = beating(1.0, rate=80), beating(1.0, rate=80, shrink=0.0)
    phase, ef = beat_targets(np.stack([good, still]), fps=FPS)
    alone = beat_targets(good[None], fps=FPS)
    np.testing.assert_array_equal(phase[0], alone[0][0])
    assert ef[0] == alone[1][0]
    assert np.isnan(phase[1]).all()
    assert np.isnan(ef[1])


@pytest.mark.parametrize("start", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
def test_a_window_of_a_beat_and_more_is_found_wherever_it_starts(start: float) -> None:
    area = beating(1.4, rate=75, start=start).sum((1, 2)).astype(np.float64)  # 1.75 beats
    assert find_beat(area, fps=FPS) is not None


@pytest.mark.parametrize("start", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
def test_half_a_beat_tells_nothing(start: float) -> None:
    area = beating(0.4, rate=75, start=start).sum((1, 2)).astype(np.float64)
    assert find_beat(area, fps=FPS) is None


def test_the_least_excursion() -> None:
    wave = (1 - np.cos(2 * np.pi * np.arange(48) / 20)) / 2
    assert find_beat(1000 * (1 - 1.1 * MIN_EXCURSION * wave), fps=FPS) is not None
    assert find_beat(1000 * (1 - 0.9 * MIN_EXCURSION * wave), fps=FPS) is None


def test_an_empty_mask_tells_nothing() -> None:
    phase, ef = beat_targets(np.zeros((1, 24, 16, 16), np.float32), fps=FPS)
    assert np.isnan(phase).all()
    assert np.isnan(ef).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedded", "embedded_chambers"])
@pytest.mark.parametrize(("frames", "least_share"), [(20, 0.2), (24, 0.5), (36, 0.9), (48, 0.95)])
def test_targets_from_an_embedded_teachers_masks(kind: str, frames: int, least_share: float) -> None:
    """The constants of the module and the table of docs/how-to/heads.md rest on this: -s prints the numbers."""
    teacher = build_teacher(kind=kind, weights="", device="cpu", batch_frames=128)
    source = default_phantom(seed=5, num_frames=frames, fps=FPS, size=56, case_frames=48)
    noise, phase_errors, ef_errors = [], [], []
    clips = [source.clip(index) for index in range(100)]
    for clip in clips:
        prob = lv_prob(teacher, clip.video[None])
        truth = (clip.truth_labels == 1).sum((1, 2))
        ratio = prob[0].sum((1, 2)) / truth
        noise.append(float(ratio.std() / ratio.mean()))
        phase, ef = beat_targets(prob, fps=FPS)
        if np.isfinite(ef[0]):
            true_phase = (truth - truth.min()) / (truth.max() - truth.min())
            phase_errors.append(float(np.abs(phase[0] - true_phase).mean()))
            ef_errors.append(abs(100 * float(ef[0]) - clip.conditions.ef_percent))
    share = len(ef_errors) / len(clips)
    print(
        f"{kind} {frames} frames: {100 * share:.0f} % hold a beat, area noise {100 * np.mean(noise):.1f} %,"
        f" phase error {np.mean(phase_errors):.3f}, EF error {np.mean(ef_errors):.1f} points"
    )
    assert share >= least_share
    assert np.mean(noise) < MIN_EXCURSION / 4
    assert np.mean(phase_errors) < 0.05
    assert np.mean(ef_errors) < 100 * EF_BETA
