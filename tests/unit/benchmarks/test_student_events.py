"""The benchmark of a student's events: beats that are cut short or held keep their truth."""

from __future__ import annotations

import numpy as np
import pytest

import echodfkd
from echodfkd.metrics.events import match_events
from tests.benchmarks.student_events import NORMAL, middle, prolonged, share, shortened


def test_events_stay_on_their_frames() -> None:
    clip = echodfkd.phantom(0, frames=150, size=16, fps=32.0, conditions=NORMAL)
    ends = clip.ed_frames
    short, long = shortened(clip), prolonged(clip)
    for changed in (short, long):
        assert len(changed.ed_frames) == len(ends)
        for mine, theirs in zip(changed.ed_frames, ends, strict=True):
            assert np.array_equal(changed.video[mine], clip.video[theirs])
    assert np.diff(short.ed_frames)[1] < 0.8 * np.diff(ends)[1]
    assert np.diff(long.ed_frames)[1] == 2 * np.diff(ends)[1]


def test_shares_are_those_of_all_clips_together() -> None:
    matches = [match_events([5, 20], [5, 21], num_frames=40), match_events([10], [10, 30], num_frames=40)]
    assert (share(matches, "precision"), share(matches, "recall")) == (1.0, 0.75)
    assert middle([1.0, float("nan"), 3.0]) == pytest.approx(2.0)
    assert middle([float("nan")]) is None
