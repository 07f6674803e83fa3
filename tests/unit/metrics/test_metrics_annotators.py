"""Several readers of one frame."""

from __future__ import annotations

import numpy as np
import pytest

from echodfkd.metrics.annotators import against_annotators, consensus, pairwise_dice
from echodfkd.metrics.overlap import dice


def rows(*texts: str) -> np.ndarray:
    return np.array([[[letter == "x" for letter in text]] for text in texts])


THREE = rows("xxx..", ".xxx.", ".x...")


def test_the_majority_by_hand():
    assert consensus(THREE).tolist() == rows(".xx..")[0].tolist()
    assert consensus(THREE[:2]).tolist() == rows(".xx..")[0].tolist()  # a tie is no majority
    assert consensus(THREE[:1]).tolist() == THREE[0].tolist()


def test_agreement_of_the_readers_by_hand():
    assert pairwise_dice(THREE) == pytest.approx([4 / 6, 2 / 4, 2 / 4], abs=1e-15)
    assert len(pairwise_dice(THREE[:1])) == 0


def test_a_mask_among_the_readers():
    mask = rows("xx...")[0]
    found = against_annotators(mask, THREE)
    assert found.each == pytest.approx([4 / 5, 2 / 5, 2 / 3], abs=1e-15)
    assert found.mean == pytest.approx((4 / 5 + 2 / 5 + 2 / 3) / 3, abs=1e-15)
    assert found.consensus == pytest.approx(dice(mask, consensus(THREE)), abs=1e-15) == pytest.approx(0.5)
    empty = against_annotators(np.zeros_like(mask), THREE)
    assert empty.each.tolist() == [0, 0, 0]
