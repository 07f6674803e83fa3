"""KL with temperature, focal loss and confidence against tables made by hand and loops over pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from echodfkd.losses.pixels import HALF_CODE, entropy_confidence, soft_mask_focal, soft_mask_kl
from echodfkd.losses.targets import soft_mask_bce

LN2, LN3 = math.log(2.0), math.log(3.0)


def one(loss: Callable[..., torch.Tensor], logit: float, prob: float, **options: float) -> float:
    z, p = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (logit, prob))
    return float(loss(z, p, torch.ones(1), total_weight=1.0, **options))


@pytest.mark.parametrize(
    ("logit", "prob", "temperature", "expected"),
    [
        (0.0, 0.5, 1.0, 0.0),
        (LN3, 0.75, 1.0, 0.0),  # the student's probability is 3/4
        (LN3, 0.75, 5.0, 0.0),
        (0.0, 0.75, 1.0, 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        # logit(0.9) = 2 ln 3, halved ln 3: the softened teacher is 3/4 and the softened student 1/2
        (0.0, 0.9, 2.0, 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))),
        # a code of 255 stands for 509/510
        (0.0, 1.0, 1.0, LN2 + (1 - HALF_CODE) * math.log(1 - HALF_CODE) + HALF_CODE * math.log(HALF_CODE)),
    ],
)
def test_kl_by_hand(logit: float, prob: float, temperature: float, expected: float) -> None:
    assert one(soft_mask_kl, logit, prob, temperature=temperature) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("logit", "prob", "gamma", "expected"),
    [
        (LN3, 1.0, 0.0, math.log(4 / 3)),
        (LN3, 1.0, 2.0, 0.25**2 * math.log(4 / 3)),  # Lin et al.: (1 - p_t)^2 * -ln p_t with p_t = 3/4
        (LN3, 0.0, 2.0, 0.75**2 * math.log(4)),
        (0.0, 0.75, 1.0, 0.25 * LN2),
        (LN3, 0.75, 2.0, 0.0),
        (-1000.0, 1.0, 2.0, 1000.0),
    ],
)
def test_focal_by_hand(logit: float, prob: float, gamma: float, expected: float) -> None:
    assert one(soft_mask_focal, logit, prob, gamma=gamma) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("gamma", [-1.0, 0.5, math.nan])
def test_a_gamma_whose_gradient_has_a_pole_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma: got .*, must be 0 or at least 1"):
        one(soft_mask_focal, 0.0, 0.5, gamma=gamma)


@pytest.mark.parametrize(
    ("prob", "expected"),
    [(0.0, 1.0), (1.0, 1.0), (0.5, 0.0), (0.25, 1 - (0.25 * 2 + 0.75 * math.log2(4 / 3)))],
)
def test_confidence_by_hand(prob: float, expected: float) -> None:
    found = entropy_confidence(torch.tensor([prob, 1 - prob], dtype=torch.float64))
    assert found.tolist() == pytest.approx([expected, expected], abs=1e-12)


def draw(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes among which are 0 and 255."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 256, shape, generator=generator)
    codes.view(-1)[:2] = torch.tensor([0, 255])
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return logits, codes.double() / 255, torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


def test_kl_equals_a_loop_over_pixels() -> None:
    """The loop writes the divergence out, where the loss subtracts an entropy from a cross-entropy."""
    logits, prob, weight = draw((3, 2, 3, 4))
    temperature, total = 2.5, 0.0
    for place, (z, p) in enumerate(zip(logits.flatten().tolist(), prob.flatten().tolist(), strict=True)):
        p = min(max(p, 1 / 510), 509 / 510)
        odds = (p / (1 - p)) ** (1 / temperature)
        teacher, student = odds / (1 + odds), 1 / (1 + math.exp(-z / temperature))
        divergence = teacher * math.log(teacher / student) + (1 - teacher) * math.log((1 - teacher) / (1 - student))
        total += float(weight[place // 24]) * temperature**2 * divergence / 24
    found = soft_mask_kl(logits, prob, weight, total_weight=3.5, temperature=temperature)
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)


def test_at_temperature_1_kl_has_the_gradient_of_cross_entropy() -> None:
    logits, prob, weight = draw((3, 2, 3, 4))
    prob = prob.clamp(HALF_CODE, 1 - HALF_CODE)
    leaves = [logits.clone().requires_grad_(True) for _ in range(2)]
    soft_mask_kl(leaves[0], prob, weight, total_weight=3.5, temperature=1.0).backward()
    soft_mask_bce(leaves[1], prob, weight, total_weight=3.5).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-12, atol=1e-16)


def test_a_high_temperature_regresses_logits() -> None:
    """The gradient tends to (z - logit p) / 4 (Hinton et al. 2015, section 2.1, for two outcomes)."""
    logits, prob, _ = draw((3, 2, 3, 4))
    leaf = logits.clone().requires_grad_(True)
    soft_mask_kl(leaf, prob, torch.ones(3), total_weight=3.0, temperature=1e4).backward()
    expected = (logits - torch.logit(prob, eps=HALF_CODE)) / 4 / prob.numel()
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-6, atol=1e-8)


def test_focal_equals_a_loop_over_pixels() -> None:
    logits, prob, weight = draw((3, 2, 3, 4))
    total = 0.0
    for place, (z, p) in enumerate(zip(logits.flatten().tolist(), prob.flatten().tolist(), strict=True)):
        q = 1 / (1 + math.exp(-z))
        cross = -p * math.log(q) - (1 - p) * math.log(1 - q)
        total += float(weight[place // 24]) * abs(p - q) ** 1.5 * cross / 24
    found = soft_mask_focal(logits, prob, weight, total_weight=3.5, gamma=1.5)
    assert float(found) == pytest.approx(total / 3.5, rel=1e-12)


@pytest.mark.parametrize("name", ["bce", "kl", "focal"])
def test_a_confidence_map_weighs_pixels(name: str) -> None:
    """A given map of ones changes nothing, zeros leave nothing, and a half of them is what a loop makes of it."""
    losses = {
        "bce": soft_mask_bce,
        "kl": lambda *a, **k: soft_mask_kl(*a, **k, temperature=2.0),
        "focal": lambda *a, **k: soft_mask_focal(*a, **k, gamma=2.0),
    }
    logits, prob, weight = draw((3, 2, 3, 4))

    def loss(confidence: torch.Tensor | None) -> float:
        return float(losses[name](logits, prob, weight, total_weight=3.5, confidence=confidence))

    ones = torch.ones_like(prob)
    assert loss(ones) == loss(None)
    assert loss(0 * ones) == 0
    given = torch.zeros_like(prob)
    given[..., 0] = 0.5
    first = losses[name](logits[..., :1], prob[..., :1], weight, total_weight=3.5)
    assert loss(given) == pytest.approx(0.5 * float(first) / 4, rel=1e-12)
    with pytest.raises(ValueError, match=r"confidence \(3, 2, 3, 1\) must have the shape \(3, 2, 3, 4\)"):
        loss(given[..., :1])
