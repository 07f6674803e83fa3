"""Soft Dice and the Lovasz hinge against tables made by hand and integrals over levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from echodfkd.losses.regions import DICE_SMOOTH, lovasz_hinge, soft_dice

LN3 = math.log(3.0)


def row(values: Sequence[float]) -> torch.Tensor:
    """One clip of one frame of one row."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("logits", "prob", "expected"),
    [
        ([0, 0, 0, 0], [1, 1, 0, 0], (4 * 0.25) / (2 + 4 * 0.25 + 1)),
        ([0, 0, 0, 0], [0.5] * 4, 0.0),  # soft masks that agree
        ([LN3, -LN3], [0.75, 0.25], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1 / 2),  # the teacher shows nothing
        ([0, 0, 0, 0], [1, 1, 1, 1], 1 / 6),
        ([-1000] * 4, [0, 0, 0, 0], 0.0),  # both empty
        ([1000] * 4, [1, 1, 1, 1], 0.0),
        ([1000] * 4, [0, 0, 0, 0], 4 / 5),
        ([-1000] * 4, [1, 1, 1, 1], 4 / 5),
    ],
)
def test_dice_by_hand(logits: list[float], prob: list[float], expected: float) -> None:
    found = soft_dice(row(logits), row(prob), torch.ones(1), total_weight=1.0)
    assert float(found) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("logits", "prob", "expected"),
    [
        ([-1, 1], [1, 0], 2.0),  # both errors are 2, and both wrong is a Jaccard index of 0
        ([0, -3], [1, 0], 1.0),  # the mask's one pixel is within the margin
        ([0, -1], [1, 1], 1.5),  # errors 1 and 2: one wrong of two is a loss of 1/2, two are 1
        ([0, 1], [0, 0], 2.0),  # an empty mask: the largest error
        ([-1, -1], [0, 0], 0.0),
        ([2, 5], [1, 1], 0.0),
        ([2, 0.5, -2], [1, 0, 0], 0.75),  # error 1.5 of one background pixel: a union of 2, a loss of 1/2
        ([0, 0], [0.6, 0.5], 1.0),  # the threshold itself is background
    ],
)
def test_lovasz_hinge_by_hand(logits: list[float], prob: list[float], expected: float) -> None:
    found = lovasz_hinge(row(logits), row(prob), torch.ones(1), total_weight=1.0, threshold=0.5)
    assert float(found) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def jaccard_loss(wrong: np.ndarray, mask: np.ndarray) -> float:
    """One minus the Jaccard index where these pixels are wrong: |wrong| / |mask or wrong|."""
    return wrong.sum() / max(1, (mask | wrong).sum())


def choquet(errors: np.ndarray, mask: np.ndarray) -> float:
    """The Lovasz extension as an integral over levels: of the loss where all pixels above a level are wrong."""
    total, below = 0.0, 0.0
    for level in np.unique(errors[errors > 0]):
        total += (level - below) * jaccard_loss(errors >= level, mask)
        below = level
    return total


def draw(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three clips, one empty and one full; some logits are equal, so that the sorted order has ties."""
    rng = np.random.default_rng(7)
    logits = np.round(rng.normal(0, 1.5, shape), 1)
    prob = rng.uniform(size=shape)
    prob[0], prob[1] = prob[0] * 0.4, 0.6 + prob[1] * 0.4
    return torch.from_numpy(logits), torch.from_numpy(prob), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


def test_dice_equals_a_loop_over_clips_and_classes() -> None:
    logits, prob, weight = draw((3, 2, 2, 3, 4))
    total = 0.0
    for b in range(3):
        for c in range(2):
            p = prob[b, :, c].flatten().tolist()
            q = [1 / (1 + math.exp(-z)) for z in logits[b, :, c].flatten().tolist()]
            overlap = sum(x * y for x, y in zip(p, q, strict=True))
            areas = sum(x * x for x in p) + sum(y * y for y in q)
            total += float(weight[b]) * (1 - (2 * overlap + DICE_SMOOTH) / (areas + DICE_SMOOTH)) / 2
    found = soft_dice(logits, prob, weight, total_weight=3.5)
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)


def test_lovasz_hinge_equals_an_integral_over_levels() -> None:
    logits, prob, weight = draw((3, 2, 2, 3, 4))
    total = 0.0
    for b in range(3):
        for c in range(2):
            mask = prob[b, :, c].numpy() > 0.5
            errors = np.maximum(0, 1 - logits[b, :, c].numpy() * np.where(mask, 1, -1))
            total += float(weight[b]) * choquet(errors, mask) / 2
    found = lovasz_hinge(logits, prob, weight, total_weight=3.5, threshold=0.5)
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)


def test_where_the_student_is_right_or_wrong_by_a_margin_it_is_the_jaccard_loss() -> None:
    """Logits -1 (an error of 2 or 0) and 1: twice one minus the Jaccard index of the two masks."""
    rng = np.random.default_rng(0)
    student, teacher = rng.uniform(size=(2, 2, 8, 8)) > 0.6
    found = lovasz_hinge(
        torch.from_numpy(np.where(student, 1.0, -1.0))[None],
        torch.from_numpy(teacher.astype(np.float64))[None],
        torch.ones(1),
        total_weight=1.0,
        threshold=0.5,
    )
    assert float(found) == pytest.approx(2 * (1 - (student & teacher).sum() / (student | teacher).sum()), rel=1e-12)


def test_a_long_clip_loses_no_digits_in_float32() -> None:
    """200,000 sorted pixels: steps of 1e-5 and less, each a closed form, against the same loss in float64."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 16, 112, 112, generator=generator)
    prob = torch.rand(1, 16, 112, 112, generator=generator)
    single, double = (
        lovasz_hinge(logits.to(dtype), prob, torch.ones(1), total_weight=1.0, threshold=0.7)
        for dtype in (torch.float32, torch.float64)
    )
    assert float(single) == pytest.approx(float(double), rel=1e-5)
