import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echodfkd.sources.video.windows import (
    permuted_index,
    resample_positions,
    resize_labels,
    resize_video,
    sample_video,
    window_start,
)


def test_50_to_32_fps_follows_a_linear_ramp():
    # Brightness rises by 4 levels a frame at 50 fps, so by 4 * 50 / 32 = 6.25 a frame at 32 fps.
    video = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], 3, axis=1)
    resampled = sample_video(video, resample_positions(len(video), fps=50.0, target_fps=32.0))
    expected = np.arange(len(resampled)) * 6.25
    assert len(resampled) == int((len(video) - 1) / 50 * 32) + 1
    assert np.abs(resampled[:, 0, 0] - expected).max() <= 0.5 + 1e-4  # rounding to uint8


def test_a_sine_in_time_keeps_its_shape():
    def wave(seconds):
        return 128 + 100 * np.sin(2 * np.pi * 1.2 * seconds)

    video = np.rint(wave(np.arange(100) / 50)).astype(np.uint8)[:, None, None]
    resampled = sample_video(video, resample_positions(len(video), fps=50.0, target_fps=32.0))[:, 0, 0]
    # Linear interpolation errs by at most (2 pi f)^2 * A * dt^2 / 8 = 0.28; the two roundings add 0.5 each.
    assert np.abs(resampled - wave(np.arange(len(resampled)) / 32)).max() < 1.3


def test_positions_keep_ends_and_anchor():
    assert resample_positions(9, fps=50, target_fps=0).tolist() == list(range(9))
    assert resample_positions(9, fps=50, target_fps=25).tolist() == [0, 2, 4, 6, 8]
    assert resample_positions(3, fps=25, target_fps=50).tolist() == [0, 0.5, 1, 1.5, 2]
    assert resample_positions(9, fps=50, target_fps=25, anchor=5).tolist() == [1, 3, 5, 7]
    assert len(resample_positions(51, fps=50, target_fps=30)) == 31  # 50 * 30 / 50, met but for rounding


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.floats(5, 120), st.floats(5, 120), st.data())
def test_positions_are_a_regular_grid_inside_the_video(num_frames, fps, target_fps, data):
    anchor = data.draw(st.integers(0, num_frames - 1))
    positions = resample_positions(num_frames, fps=fps, target_fps=target_fps, anchor=anchor)
    assert positions[0] >= 0
    assert positions[-1] <= num_frames - 1
    assert np.abs(positions - anchor).min() < 1e-6
    assert np.allclose(np.diff(positions), fps / target_fps, atol=1e-6)
    assert positions[0] < fps / target_fps + 1e-6
    assert num_frames - 1 - positions[-1] < fps / target_fps + 1e-6


def test_sampling_on_whole_positions_copies_frames():
    video = np.random.default_rng(0).integers(0, 256, (6, 4, 5), dtype=np.uint8)
    assert np.array_equal(sample_video(video, np.array([0.0, 3.0, 5.0])), video[[0, 3, 5]])
    assert np.array_equal(sample_video(video, np.array([4.5]))[0], np.rint(video[4] / 2 + video[5] / 2))


def test_windows_are_uniform_and_inside():
    starts = Counter(window_start(3, f"clip{i}", 0, 20, 16) for i in range(5000))
    assert sorted(starts) == [0, 1, 2, 3, 4]
    # Binomial(5000, 1/5): standard deviation 28; five of them.
    assert all(abs(count - 1000) < 142 for count in starts.values())
    assert window_start(0, "a", 0, 16, 16) == 0
    assert len({window_start(0, "a", epoch, 10_000, 16) for epoch in range(50)}) > 45


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 65, 1000])
def test_each_epoch_is_a_permutation(count):
    orders = [[permuted_index(7, epoch, p, count) for p in range(count)] for epoch in range(3)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count > 5:
        assert orders[0] != orders[1] != orders[2]
        assert [permuted_index(8, 0, p, count) for p in range(count)] != orders[0]


def test_permutations_reach_every_place():
    seen = Counter(permuted_index(1, epoch, 0, 10) for epoch in range(4000))
    # Binomial(4000, 1/10): standard deviation 19; five of them.
    assert all(abs(seen[value] - 400) < 95 for value in range(10))


def test_same_choices_in_another_process():
    code = (
        "from echodfkd.sources.video.windows import permuted_index, window_start;"
        "print([window_start(5, f'c{i}', i, 300, 25) for i in range(20)],"
        "[permuted_index(5, 2, i, 33) for i in range(33)])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = (
        [window_start(5, f"c{i}", i, 300, 25) for i in range(20)],
        [permuted_index(5, 2, i, 33) for i in range(33)],
    )
    assert run.stdout.strip() == f"{here[0]} {here[1]}"


def test_choices_do_not_change_between_versions():
    digest = hashlib.sha256(b"window|0|recorded-a|0").hexdigest()
    assert window_start(0, "recorded-a", 0, 1000, 10) == int(digest[:16], 16) % 991
    assert [permuted_index(0, 0, p, 6) for p in range(6)] == [0, 1, 2, 5, 4, 3]  # a run that resumes relies on it


def test_halving_is_a_triangle_filter():
    video = np.random.default_rng(0).integers(0, 256, (2, 24, 24), dtype=np.uint8)
    # Triangle over 4 pixels around each new pixel's centre, cut and renormalised at the border.
    centre_px = (np.arange(12)[:, None] + 0.5) * 2
    weight = np.clip(1 - np.abs(np.arange(24)[None] + 0.5 - centre_px) / 2, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    reference = np.einsum("ih,thw,jw->tij", weight, video, weight)
    assert np.abs(resize_video(video, 12) - reference).max() <= 0.5 + 1e-3  # rounding to uint8
    assert resize_video(video, 24) is video


def test_labels_stay_labels():
    labels = np.random.default_rng(0).choice([0, 1, 255], (3, 20, 30)).astype(np.uint8)
    small = resize_labels(labels, 10)
    rows = np.floor((np.arange(10) + 0.5) * 2).astype(int)
    columns = np.floor((np.arange(10) + 0.5) * 3).astype(int)
    assert small.dtype == np.uint8
    assert np.array_equal(small, labels[:, rows][:, :, columns])
