"""What every mask loss must do: shards add up, gradients are right, hard targets, empty and full masks, bfloat16."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch

from echodfkd.losses.pixels import entropy_confidence, soft_mask_focal, soft_mask_kl
from echodfkd.losses.regions import lovasz_hinge, soft_dice
from echodfkd.losses.shape import boundary_loss, temporal_consistency
from echodfkd.losses.targets import soft_mask_bce

Loss = Callable[..., torch.Tensor]


def confident_bce(logits: torch.Tensor, prob: torch.Tensor, weight: torch.Tensor, **options: float) -> torch.Tensor:
    return soft_mask_bce(logits, prob, weight, confidence=entropy_confidence(prob), **options)


ALL: dict[str, Loss] = {
    "bce": soft_mask_bce,
    "confident_bce": confident_bce,
    "kl": functools.partial(soft_mask_kl, temperature=3.0),
    "focal": functools.partial(soft_mask_focal, gamma=2.0),
    "dice": soft_dice,
    "lovasz": functools.partial(lovasz_hinge, threshold=0.5),
    "boundary": functools.partial(boundary_loss, threshold=0.5),
    "temporal": temporal_consistency,
}
SHAPES = [(name, shape) for name in ALL for shape in ((4, 3, 4, 5), (4, 2, 3, 4, 3))]


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    prob = torch.rand(shape, generator=generator, dtype=torch.float64)
    return logits.to(dtype), prob.to(dtype), torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=dtype)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
@pytest.mark.parametrize("cuts", [(2, 2), (1, 3), (1, 1, 1, 1)])
def test_shards_add_up_to_the_whole_with_gradients(name: str, shape: tuple[int, ...], cuts: tuple[int, ...]) -> None:
    """Float64, so that 1e-12 is the rounding of sums in another order; the third clip weighs nothing."""
    logits, prob, weight = draw(shape)
    whole = logits.clone().requires_grad_(True)
    loss = ALL[name](whole, prob, weight, total_weight=3.5)
    loss.backward()
    parts = logits.clone().requires_grad_(True)
    pieces = zip(parts.split(cuts), prob.split(cuts), weight.split(cuts), strict=True)
    losses = [ALL[name](z, p, w, total_weight=torch.tensor(3.5)) for z, p, w in pieces]
    torch.stack(losses).sum().backward()
    assert math.fsum(part.item() for part in losses) == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=1e-18)
    assert whole.grad[3].abs().sum() > 0


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_gradients_by_finite_differences(name: str, shape: tuple[int, ...]) -> None:
    """At random logits, which no kink of a hinge or of a sorted order is near."""
    logits, prob, weight = draw(shape)
    leaf = logits.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: ALL[name](z, prob, weight, total_weight=3.5), (leaf,))


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_a_clip_of_weight_zero_leaves_no_trace(name: str, shape: tuple[int, ...]) -> None:
    logits, prob, weight = draw(shape)
    broken = logits.clone()
    broken[2] = math.inf
    assert ALL[name](broken, prob, weight, total_weight=3.5) == ALL[name](logits, prob, weight, total_weight=3.5)


@pytest.mark.parametrize("name", ALL)
def test_classes_are_binary_masks_whose_losses_are_averaged(name: str) -> None:
    logits, prob, weight = draw((4, 2, 3, 4, 3))
    each = [ALL[name](logits[:, :, c], prob[:, :, c], weight, total_weight=3.5) for c in range(3)]
    found = ALL[name](logits, prob, weight, total_weight=3.5)
    assert float(found) == pytest.approx(float(sum(each)) / 3, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_half_precision_is_computed_in_float32(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Equal to the float32 loss of the same rounded logits, to the bit."""
    logits, _, weight = draw(shape, torch.float32)
    codes = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))
    prob = codes.float() / 255
    rounded = logits.to(dtype)
    loss = ALL[name](rounded, prob, weight, total_weight=3.5)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, ALL[name](rounded.float(), prob, weight, total_weight=3.5))


@pytest.mark.parametrize("target", ["empty", "full", "hard"])
@pytest.mark.parametrize("size", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("name", ALL)
def test_hard_masks_and_huge_logits_have_finite_losses_and_gradients(name: str, size: float, target: str) -> None:
    """Right and wrong pixels alike, in float32; a wrong logit of 100 must still pull back."""
    shape = (4, 2, 3, 4, 3)
    prob = {"empty": torch.zeros(shape), "full": torch.ones(shape)}.get(target, (draw(shape)[1] > 0.5).float())
    signs = torch.where(torch.arange(3) % 2 == 0, 1.0, -1.0)
    logits = (size * signs).expand(shape).clone().requires_grad_(True)
    loss = ALL[name](logits, prob, torch.ones(4), total_weight=4.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > -1e-6
    assert torch.isfinite(logits.grad).all()
    if size == 100.0 and name in ("bce", "kl", "focal", "lovasz"):
        wrong = (prob > 0.5) != (logits > 0)
        pull = logits.grad[wrong].abs()
        assert (pull > 0).any() if name == "lovasz" else (pull > 0).all()


@pytest.mark.parametrize("name", ["confident_bce", "kl", "focal", "dice", "temporal"])
def test_a_student_that_agrees_has_no_gradient(name: str) -> None:
    """They are smallest at the teacher's own soft masks (Lovasz and boundary, which threshold them, are not).

    The probabilities are codes away from 0 and 255; 1e-15 is float64's rounding of probabilities near 1/2.
    """
    codes = torch.randint(1, 255, (4, 2, 3, 4, 3), generator=torch.Generator().manual_seed(2)).double()
    prob = codes / 255
    logits = torch.logit(prob).requires_grad_(True)
    ALL[name](logits, prob, torch.ones(4), total_weight=4.0).backward()
    assert logits.grad.abs().max() < 1e-15


@pytest.mark.parametrize("name", ALL)
def test_codes_and_shapes_that_do_not_fit_are_named(name: str) -> None:
    logits, prob, weight = draw((4, 2, 3, 4, 3))
    with pytest.raises(ValueError, match="divide codes by 255"):
        ALL[name](logits, (prob * 255).to(torch.uint8), weight, total_weight=1.0)
    with pytest.raises(ValueError, match=r"weight \(3,\)"):
        ALL[name](logits, prob, weight[:3], total_weight=1.0)
