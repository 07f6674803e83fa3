"""The best threshold of soft masks, against cutting at every one."""

from __future__ import annotations

import numpy as np
import pytest

from echodfkd.metrics.overlap import dice
from echodfkd.metrics.threshold import best_code, dice_by_code


def test_every_code_at_once_is_every_code_by_itself():
    rng = np.random.default_rng(0)
    prob, truth = rng.random((3, 9, 11)), rng.random((3, 9, 11)) > 0.6
    known = rng.random((3, 9, 11)) > 0.2
    prob[0, 0, :3] = 0.0, 1.0, 80 / 255
    truth[2] = False  # above the highest code both masks are empty
    found = dice_by_code(prob, truth, known)
    for code in range(256):
        mask = (np.floor(255 * prob) > code) & known
        assert found[code] == pytest.approx(dice(mask, truth & known).mean(), abs=1e-12)  # sums of doubles


def test_the_best_code_is_the_middle_most_of_the_best():
    curve = np.zeros(256)
    curve[[20, 100, 140, 200]] = 0.9
    assert best_code([curve]) == 140
    other = np.zeros(256)
    other[20] = 0.5
    assert best_code([curve, other]) == 20
    sharp = dice_by_code(np.array([[[0.9, 0.1]]]), np.array([[[True, False]]]), np.ones((1, 1, 2), bool))
    assert sharp[best_code([sharp])] == 1.0
    assert best_code([sharp]) == 127
