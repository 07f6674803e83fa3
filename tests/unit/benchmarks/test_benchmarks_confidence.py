"""The odd clips of the benchmark `confidence`, and its area under the ROC curve."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from tests.benchmarks.confidence import area_under_curve, interval
from tests.benchmarks.odd_clips import CHANGES, SCENES, photograph, scene

SIDE = 32


def test_the_area_is_that_of_the_rank_sum() -> None:
    rng = np.random.default_rng(0)
    known, odd = rng.integers(0, 6, 20).tolist(), rng.integers(2, 9, 15).tolist()
    statistic = mannwhitneyu(odd, known).statistic
    assert area_under_curve(known, odd) == pytest.approx(statistic / (len(known) * len(odd)))
    low, high = interval(known, odd)
    assert low < area_under_curve(known, odd) < high


def test_every_odd_clip_differs_from_the_clip_it_is_made_of() -> None:
    rng = np.random.default_rng(0)
    video = rng.integers(20, 200, (12, SIDE, SIDE)).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[8:20, 10:22] = True
    for kind, change in CHANGES.items():
        odd = change(video, mask, np.random.default_rng(1))
        assert (odd.dtype, odd.shape) == (np.uint8, video.shape), kind
        assert not np.array_equal(odd, video), kind
    shuffled = CHANGES["shuffled"](video, mask, rng)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in video)


@pytest.mark.parametrize("kind", [*SCENES, "photograph", "text"])
def test_scenes_and_pictures_move(kind: str) -> None:
    video = scene(kind, 0, 8, SIDE) if kind in SCENES else photograph(0, 8, SIDE, kind=kind)
    assert (video.dtype, video.shape) == (np.uint8, (8, SIDE, SIDE))
    assert (video[0] != video[-1]).mean() > 0.1
