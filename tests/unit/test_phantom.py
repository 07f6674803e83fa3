"""The embedded phantom: pure, labelled, consistent with its conditions, and not to be had by a threshold."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from echodfkd.errors import ConfigError
from echodfkd.records import VideoClip
from echodfkd.synthesis.phantom import PhantomSource, draw_conditions
from echodfkd.synthesis.phantom_anatomy import draw_anatomy, ejected_fraction, move
from echodfkd.synthesis.phantom_chambers import Heart, ellipse
from echodfkd.synthesis.source import ClipSource


def make_source(seed: int = 0, size: int = 56, frames: int = 16, fps: float = 32.0, case_frames: int = 48):
    return PhantomSource(seed=seed, num_frames=frames, fps=fps, size=size, case_frames=case_frames)


@pytest.fixture(scope="module")
def cases() -> list[VideoClip]:
    source = make_source(seed=5, case_frames=40)  # 1.22 s: a beat at 50 per minute
    return [source.case(index) for index in range(24)]


def digest(clip: VideoClip) -> str:
    content = hashlib.sha256(clip.video.tobytes() + clip.truth_labels.tobytes())
    content.update(repr((clip.clip_id, clip.conditions, clip.fps, clip.ed_frames, clip.es_frames)).encode())
    return content.hexdigest()


def test_is_a_clip_source_with_the_documented_records() -> None:
    source = make_source(seed=3)
    assert isinstance(source, ClipSource)
    assert source.num_cases is None
    clip, case = source.clip(17), source.case(17)
    assert clip.clip_id == "phantom-s3-i17-e0-w0"
    assert "case" in case.clip_id
    assert clip.video.shape == clip.truth_labels.shape == (16, 56, 56)
    assert case.video.shape == case.truth_labels.shape == (48, 56, 56)
    assert clip.video.dtype == clip.truth_labels.dtype == np.uint8
    assert (clip.index, clip.seed, clip.epoch, clip.window_start, clip.fps) == (17, 3, 0, 0, 32.0)


def test_same_clip_again_and_in_another_process() -> None:
    source = make_source(seed=11)
    first = [digest(source.clip(index)) for index in (4, 0)] + [digest(source.case(4))]
    again = [digest(make_source(seed=11).clip(index)) for index in (4, 0)] + [digest(source.case(4))]
    assert first == again
    code = (
        "import sys; sys.path.insert(0, 'tests/unit'); import test_phantom as t; s = t.make_source(seed=11);"
        "print(t.digest(s.clip(4)), t.digest(s.clip(0)), t.digest(s.case(4)))"
    )
    root = __file__.rsplit("/tests/", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == first


def test_seeds_indices_and_purposes_draw_different_hearts() -> None:
    drawn = {make_source(seed=seed).clip(index).video.tobytes() for seed in (0, 1) for index in (0, 1)}
    assert len(drawn) == 4
    assert draw_conditions(0, 3) != draw_conditions(0, 3, purpose="case")
    assert draw_conditions(0, 3) == draw_conditions(0, 3)


def test_truth_is_binary_and_its_size_is_plausible(cases: list[VideoClip]) -> None:
    for case in cases:
        assert set(np.unique(case.truth_labels)) == {0, 1}
        share = (case.truth_labels == 1).mean((1, 2))
        assert share.min() > 0.02
        assert share.max() < 0.3
        border = np.concatenate([case.truth_labels[:, [0, -1]].ravel(), case.truth_labels[:, :, [0, -1]].ravel()])
        assert not border.any()


def test_no_threshold_finds_the_ventricle(cases: list[VideoClip]) -> None:
    """All 256 thresholds, both polarities, over the set and for each case by itself."""
    video = np.stack([case.video for case in cases])
    truth = np.stack([case.truth_labels for case in cases]) == 1

    def best_dice(video: np.ndarray, truth: np.ndarray) -> float:
        inside = np.bincount(video[truth], minlength=256).cumsum()
        chosen = np.bincount(video.ravel(), minlength=256).cumsum()
        dark = 2 * inside / (chosen + truth.sum())
        bright = 2 * (truth.sum() - inside) / (video.size - chosen + truth.sum())
        return float(max(dark.max(), bright.max()))

    assert best_dice(video, truth) <= 0.5
    assert max(best_dice(v, t) for v, t in zip(video, truth, strict=True)) <= 0.5


def test_ed_and_es_frames_are_the_extrema_of_the_area(cases: list[VideoClip]) -> None:
    """Each event is the extremum of its neighbourhood; a case lasts a beat, so that it holds both."""
    for case in cases:
        area = (case.truth_labels == 1).sum((1, 2)).astype(float)
        assert case.ed_frames
        assert case.es_frames
        for frame in case.ed_frames:
            assert area[frame] == area[max(0, frame - 2) : frame + 3].max()
            assert area[frame] >= 0.96 * area.max()  # beats differ by sway of the pixel grid alone
        for frame in case.es_frames:
            assert area[frame] == area[max(0, frame - 2) : frame + 3].min()
            assert area[frame] <= area.min() + 0.04 * area.max()


def test_windows_without_an_event_say_so() -> None:
    source = make_source(frames=4)
    clips = [source.clip(index) for index in range(20)]
    assert any(clip.ed_frames == () and clip.es_frames == () for clip in clips)
    assert any(clip.ed_frames or clip.es_frames for clip in clips)
    for clip in clips:
        assert all(0 <= frame < 4 for frame in (*clip.ed_frames, *clip.es_frames))


def test_short_cases_begin_at_end_diastole() -> None:
    source = make_source(case_frames=18)  # 0.53 s: less than a beat at 110 per minute
    for case in map(source.case, range(12)):
        assert case.ed_frames
        assert case.es_frames
        assert case.ed_frames[0] < case.es_frames[0]


def test_area_change_follows_ejection_fraction(cases: list[VideoClip]) -> None:
    """Fractional area change rises with EF: rank correlation, since shape and pixels add scatter."""
    ef = [case.conditions.ef_percent for case in cases]
    change = []
    for case in cases:
        area = (case.truth_labels == 1).sum((1, 2)).astype(float)
        change.append(1.0 - area[list(case.es_frames)].mean() / area[list(case.ed_frames)].mean())
    ranks = np.argsort(np.argsort(ef)), np.argsort(np.argsort(change))
    assert np.corrcoef(*ranks)[0, 1] > 0.95


def test_one_heart_empties_more_at_a_higher_ejection_fraction() -> None:
    base = draw_conditions(2, 0)
    smallest = []
    for ef in (20.0, 35.0, 50.0, 65.0, 80.0):
        conditions = replace(base, ef_percent=ef, esv_ml=base.edv_ml * (1 - ef / 100))
        anatomy = draw_anatomy(conditions, np.random.default_rng(0))
        motion = move(anatomy, conditions, start_phase=0.0, num_frames=64, fps=64.0)
        smallest.append((motion.half_width * motion.length).min())
        assert 1 - motion.volume.min() / motion.volume.max() == pytest.approx(ef / 100, abs=0.01)
    assert np.all(np.diff(smallest) < 0)


def test_area_length_volume_of_the_rasterised_shape() -> None:
    """Count 0.25 mm pixels of the cavity; V = 8 A^2 / (3 pi L) must give back the volume asked for (1 %)."""
    conditions = draw_conditions(9, 1)
    anatomy = draw_anatomy(conditions, np.random.default_rng(1))
    motion = move(anatomy, conditions, start_phase=0.0, num_frames=6, fps=16.0)
    step = 0.25
    u, v = np.meshgrid(np.arange(-70, 70, step, np.float32), np.arange(-5, 140, step, np.float32))
    frames = (6, *u.shape)
    heart = Heart(np.broadcast_to(u, frames), np.broadcast_to(v, frames), anatomy, motion, step)
    area = heart.lv_mask.sum((1, 2)) * step**2
    volume_ml = 8 * area**2 / (3 * np.pi * motion.length) / 1000
    np.testing.assert_allclose(volume_ml, motion.volume, rtol=0.01)


def test_ellipse_distance_is_exact_on_a_circle() -> None:
    x, y = np.meshgrid(np.linspace(-9, 9, 37, dtype=np.float32), np.linspace(-8, 8, 33, dtype=np.float32))
    distance = ellipse(x, y, np.float32(5), np.float32(5))
    away = np.hypot(x, y) > 0.1
    np.testing.assert_allclose(distance[away], np.hypot(x, y)[away] - 5, atol=1e-4)


def test_volume_curve_over_a_beat() -> None:
    """0 at both end-diastoles, 1 at end-systole, falling towards it and rising after it, without a jump."""
    phase = np.linspace(0, 1, 2001)
    ejected = ejected_fraction(phase, systole=0.35, early_share=0.7)
    assert ejected[0] == pytest.approx(0, abs=1e-12)
    assert ejected[-1] == pytest.approx(0, abs=1e-12)
    assert phase[ejected.argmax()] == pytest.approx(0.35)
    assert ejected.max() == pytest.approx(1)
    assert np.all(np.diff(ejected[phase <= 0.35]) >= 0)
    assert np.all(np.diff(ejected[phase >= 0.35]) < 0)
    assert np.abs(np.diff(ejected)).max() < 0.01


def test_marginals_of_the_conditions() -> None:
    """Means and deviations of 4000 draws; tolerances are 4 standard errors plus the shift that clipping makes."""
    drawn = [draw_conditions(1, index) for index in range(4000)]
    ef = np.array([c.ef_percent for c in drawn])
    edv = np.array([c.edv_ml for c in drawn])
    rate = np.array([c.heart_rate_bpm for c in drawn])
    assert ef.mean() == pytest.approx(55.7, abs=1.0)
    assert ef.std() == pytest.approx(12.4, abs=1.0)
    assert edv.mean() == pytest.approx(91, abs=4)
    assert edv.std() == pytest.approx(46, abs=6)
    assert (ef.min(), ef.max()) == (15, 80)
    assert 35 <= edv.min() < edv.max() <= 220
    assert 50 <= rate.min() < rate.max() <= 110
    assert all(c.esv_ml == pytest.approx(c.edv_ml * (1 - c.ef_percent / 100)) for c in drawn[:50])


def test_heart_rate_is_the_one_asked_for() -> None:
    """Over a long case, ED frames come 60 / rate seconds apart, to the frame's own rounding."""
    case = make_source(case_frames=200, size=48).case(0)
    beats = np.diff(case.ed_frames) / case.fps
    assert len(beats) >= 4
    assert beats.mean() == pytest.approx(60 / case.conditions.heart_rate_bpm, rel=0.03)


@pytest.mark.parametrize("size", [48, 50, 64, 112, 128])
def test_sizes_show_the_same_heart(size: int) -> None:
    clip, small = make_source(size=size, frames=2).clip(1), make_source(size=56, frames=2).clip(1)
    assert clip.video.shape == (2, size, size)
    assert clip.spacing_mm * size == pytest.approx(small.spacing_mm * 56)
    area = [(c.truth_labels == 1).sum() * c.spacing_mm**2 for c in (clip, small)]
    assert area[0] == pytest.approx(area[1], rel=0.03)
    assert clip.conditions == small.conditions


def test_frame_rate_zero_draws_one_per_clip() -> None:
    rates = {make_source(fps=0, frames=2).clip(index).fps for index in range(20)}
    assert 50.0 in rates
    assert len(rates) > 1
    assert all(30 <= rate <= 60 for rate in rates)


def test_outside_of_the_sector_is_black_and_walls_are_brighter_than_the_cavity(cases: list[VideoClip]) -> None:
    for case in cases[:8]:
        assert case.video[:, :4, :4].max() == 0
        assert case.video[:, :4, -4:].max() == 0
    cavity = np.concatenate([case.video[case.truth_labels == 1] for case in cases])
    ring = []
    for case in cases:
        mask = case.truth_labels == 1
        grown = mask.copy()
        for _ in range(3):
            grown[:, 1:-1, 1:-1] |= grown[:, 2:, 1:-1] | grown[:, :-2, 1:-1] | grown[:, 1:-1, 2:] | grown[:, 1:-1, :-2]
        ring.append(case.video[grown & ~mask])
    assert np.concatenate(ring).mean() > 1.5 * cavity.mean()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 8}, "window.size: got 8, the phantom needs at least 16"),
        ({"seed": -1}, "seed: got -1"),
        ({"frames": 0}, "window.frames: got 0"),
        ({"fps": -1.0}, "window.fps: got -1.0"),
        ({"case_frames": 0}, "evaluation.frames: got 0"),
    ],
)
def test_impossible_settings_are_named(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_source(**change)
