"""The soft-mask loss against a table made by hand, an independent loop, and its own shards."""

from __future__ import annotations

import math

import pytest
import torch

from echodfkd.losses.targets import soft_mask_bce

LN2 = math.log(2.0)


def _one(logit: float, prob: float) -> float:
    z = torch.full((1, 1, 1, 1), logit, dtype=torch.float64)
    p = torch.full((1, 1, 1, 1), prob, dtype=torch.float64)
    return float(soft_mask_bce(z, p, torch.ones(1), total_weight=1.0))


@pytest.mark.parametrize(
    ("logit", "prob", "expected"),
    [
        (0.0, 0.0, LN2),
        (0.0, 0.3, LN2),  # at logit 0 every target costs ln 2
        (0.0, 1.0, LN2),
        (math.log(3.0), 1.0, math.log(4.0 / 3.0)),  # p = 3/4
        (math.log(3.0), 0.0, math.log(4.0)),
        (math.log(3.0), 0.5, 0.5 * math.log(4.0 / 3.0) + 0.5 * math.log(4.0)),
        (50.0, 0.0, 50.0),
        (-50.0, 1.0, 50.0),
        (1000.0, 1.0, 0.0),
        (-1000.0, 0.0, 0.0),
    ],
)
def test_values_by_hand(logit, prob, expected):
    assert _one(logit, prob) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def _batch(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64) * 3
    prob = torch.rand(4, 2, 3, 3, generator=generator, dtype=torch.float64)
    return logits.to(dtype), prob.to(dtype), torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=dtype)


def test_equals_a_loop_over_pixels():
    logits, prob, weight = _batch()
    total = 0.0
    for b in range(4):
        for z, p in zip(logits[b].flatten().tolist(), prob[b].flatten().tolist(), strict=True):
            q = 1.0 / (1.0 + math.exp(-z))
            total -= float(weight[b]) * (p * math.log(q) + (1 - p) * math.log(1 - q))
    expected = total / (3.5 * 2 * 3 * 3)
    assert float(soft_mask_bce(logits, prob, weight, total_weight=3.5)) == pytest.approx(expected, rel=1e-12)


def test_gradients_by_finite_differences():
    logits, prob, weight = _batch()
    leaf = logits.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: soft_mask_bce(z, prob, weight, total_weight=3.5), (leaf,))


@pytest.mark.parametrize("cuts", [(2, 2), (1, 3), (1, 1, 1, 1)])
def test_shards_add_up_to_the_whole_batch_with_gradients(cuts):
    logits, prob, weight = _batch()
    total = weight.sum()
    whole = logits.clone().requires_grad_(True)
    loss = soft_mask_bce(whole, prob, weight, total_weight=total)
    loss.backward()
    parts = logits.clone().requires_grad_(True)
    losses = [
        soft_mask_bce(z, p, w, total_weight=total)
        for z, p, w in zip(parts.split(cuts), prob.split(cuts), weight.split(cuts), strict=True)
    ]
    sum(losses).backward()
    assert sum(losses).item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=0)


def test_a_clip_of_weight_zero_leaves_no_trace():
    logits, prob, weight = _batch()
    broken = logits.clone()
    broken[2] = math.inf
    broken.requires_grad_(True)
    loss = soft_mask_bce(broken, prob, weight, total_weight=3.5)
    assert loss.item() == soft_mask_bce(logits, prob, weight, total_weight=3.5).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hard_targets_and_huge_logits_stay_finite(dtype):
    """bfloat16 logits are computed in float32: equal to the float32 loss of the same rounded logits, exactly."""
    logits = torch.tensor([-100.0, 100.0, -100.0, 100.0, 0.3], dtype=dtype).view(1, 5, 1, 1).requires_grad_(True)
    prob = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=dtype).view(1, 5, 1, 1)
    loss = soft_mask_bce(logits, prob, torch.ones(1), total_weight=torch.tensor(1.0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(logits.grad).all()
    rest = math.log1p(math.exp(-float(logits.detach()[0, 4, 0, 0])))
    assert loss.item() == pytest.approx((200.0 + rest) / 5, rel=1e-6)


def test_codes_and_shapes_that_do_not_fit_are_named():
    logits, prob, weight = _batch()
    with pytest.raises(ValueError, match="divide codes by 255"):
        soft_mask_bce(logits, (prob * 255).to(torch.uint8), weight, total_weight=1.0)
    with pytest.raises(ValueError, match=r"weight \(3,\)"):
        soft_mask_bce(logits, prob, weight[:3], total_weight=1.0)
