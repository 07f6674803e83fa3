"""Boundary loss against scipy's distance transform, temporal consistency against a table and a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from echodfkd.losses.shape import boundary_loss, signed_distance, temporal_consistency, temporal_distance


def masks() -> np.ndarray:
    """Noise, a disc, a single pixel, a single hole, a corner, an edge, an empty and a full frame."""
    rows, columns = np.mgrid[:17, :23]
    disc = (rows - 8) ** 2 + (columns - 11) ** 2 < 40
    one = (rows == 5) & (columns == 19)
    frames = [np.random.default_rng(0).uniform(size=(17, 23)) > 0.8, disc, one, ~one, rows + columns < 3, rows < 1]
    return np.stack([*frames, np.zeros_like(one), np.ones_like(one)])


def test_signed_distances_are_scipy_s() -> None:
    """Squared distances are whole numbers below 2^24; the roots differ by float32's rounding alone."""
    found = signed_distance(torch.from_numpy(masks())).numpy()
    assert found.dtype == np.float32
    for mask, distance in zip(masks()[:-2], found, strict=False):
        expected = np.where(mask, 1 - distance_transform_edt(mask), distance_transform_edt(~mask))
        np.testing.assert_allclose(distance, expected, rtol=1e-6, atol=1e-6)
    assert not found[-2:].any(), "a frame without a border"


@pytest.mark.parametrize(
    ("prob", "expected"),
    [
        ([[0, 0, 1, 0, 0]], [[2, 1, 0, 1, 2]]),
        ([[1, 1, 1, 1, 0]], [[-3, -2, -1, 0, 1]]),
        ([[1, 0], [0, 0]], [[0, 1], [1, math.sqrt(2)]]),
    ],
)
def test_distances_by_hand(prob: list[list[float]], expected: list[list[float]]) -> None:
    mask = torch.tensor(prob).unsqueeze(0) > 0.5
    assert signed_distance(mask)[0].flatten().tolist() == pytest.approx([d for row in expected for d in row])


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([[-1000, -1000, 1000, -1000, -1000]], 0.0),  # the teacher's mask
        ([[0, 0, 0, 0, 0]], (1 + 0.5 + 0 + 0.5 + 1) / 5),
        ([[-1000, -1000, 1000, -1000, 1000]], 2 / 5),  # one pixel, two from the border
    ],
)
def test_boundary_loss_by_hand(logits: list[list[float]], expected: float) -> None:
    z, p = (torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 5) for values in (logits, [[0, 0, 1, 0, 0]]))
    found = boundary_loss(z, p, torch.ones(1), total_weight=1.0, threshold=0.5)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_boundary_loss_equals_a_loop_over_frames() -> None:
    """Four clips of two classes and one frame, the last two of them without a border; distances are float32."""
    frames = masks()
    prob = torch.from_numpy(np.where(frames, 0.9, 0.2)).view(4, 1, 2, 17, 23)
    logits = torch.randn(prob.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight, total = torch.tensor([1.0, 0.5, 2.0, 3.0], dtype=torch.float64), 0.0
    for place, mask in enumerate(frames[:-2]):
        phi = np.where(mask, 1 - distance_transform_edt(mask), distance_transform_edt(~mask))
        student = 1 / (1 + np.exp(-logits[place // 2, 0, place % 2].numpy()))
        total += float(weight[place // 2]) * (phi * (student - mask)).mean() / 2
    found = boundary_loss(logits, prob, weight, total_weight=6.5, threshold=0.5)
    assert float(found) == pytest.approx(total / 6.5, rel=1e-6)


def test_a_frame_without_a_border_teaches_nothing() -> None:
    for value in (0.0, 1.0):
        logits = torch.randn(2, 3, 4, 5, requires_grad=True)
        loss = boundary_loss(logits, torch.full((2, 3, 4, 5), value), torch.ones(2), total_weight=2.0, threshold=0.5)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([0.5, 0.5, 0.5], [0.2, 0.2, 0.2], 0.0),  # a constant error does not flicker
        ([0.5, 0.75, 0.5], [0.2, 0.2, 0.2], 0.25**2),
        ([0.5, 0.75, 0.5], [0.0, 0.25, 0.0], 0.0),  # the teacher's own motion
        ([0.5, 0.75, 0.5], [0.0, 1.0, 1.0], (0.75**2 + 0.25**2) / 2),
    ],
)
def test_temporal_consistency_by_hand(student: list[float], teacher: list[float], expected: float) -> None:
    z = torch.logit(torch.tensor(student, dtype=torch.float64)).view(1, 3, 1, 1)
    p = torch.tensor(teacher, dtype=torch.float64).view(1, 3, 1, 1)
    found = temporal_consistency(z, p, torch.ones(1), total_weight=1.0)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_temporal_consistency_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 4, 2, 3, 2, generator=generator, dtype=torch.float64)
    prob = torch.rand(3, 4, 2, 3, 2, generator=generator, dtype=torch.float64)
    weight, total = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64), 0.0
    student = 1 / (1 + np.exp(-logits.numpy()))
    for b, t, c, h, w in np.ndindex(3, 3, 2, 3, 2):
        change = student[b, t + 1, c, h, w] - student[b, t, c, h, w]
        wanted = float(prob[b, t + 1, c, h, w] - prob[b, t, c, h, w])
        total += float(weight[b]) * (change - wanted) ** 2 / (3 * 2 * 3 * 2)
    found = temporal_consistency(logits, prob, weight, total_weight=3.5)
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)
    own, taught = student[1], prob[1].numpy()
    change = np.square(np.diff(own, axis=0) - np.diff(taught, axis=0)).sum()
    wanted = change / (np.square(own).sum() + np.square(taught).sum() + 1)
    assert float(temporal_distance(logits, prob)[1]) == pytest.approx(wanted, rel=1e-12)


def test_one_frame_has_no_change() -> None:
    clip = torch.zeros(2, 1, 3, 3)
    with pytest.raises(ValueError, match=r"needs at least 2 frames, got logits \(2, 1, 3, 3\)"):
        temporal_consistency(clip, clip, torch.ones(2), total_weight=2.0)
