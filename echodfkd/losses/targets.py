"""Distillation losses on soft masks, cardiac phase and ejection fraction, whose shards add up to the whole batch.

Every mask loss is sum_b w_b * l_b / total_weight: l_b depends only on clip b (a mean over its pixels, or one number for
its whole mask), and total_weight is the sum of w over the clips of the whole optimiser step, on all workers.
So the losses of the parts of any cut between clips, and their gradients, add up to those of the whole. The other losses
are in `pixels`, `regions`, `shape` and `features`.

Legend: B clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_mask_bce(
    logits: torch.Tensor,
    target_prob: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
    confidence: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy with soft targets, averaged over the pixels (and classes) of the whole batch.

    sum_b w_b * sum_thw bce(z, p) / (total_weight * T * H * W), with bce(z, p) = softplus(z) - p * z: the
    authors' ``binary_cross_entropy_with_logits`` on the teacher's probabilities if all weights are 1.
    A rank passes its own clips and the sum of ``weight`` over ALL ranks (and accumulation rounds): the losses
    of the parts, and so their gradients, then add up to those of the whole batch however it is cut. An engine
    that averages gradients over R ranks must be given R times this loss.

    Args:
        logits: (B, T, H, W) or (B, T, C, H, W), any floating dtype; computed in at least float32.
        target_prob: floating, 0..1, of the same shape.
        weight: (B,), weight of each clip; 0 leaves a clip out, even if its values are not finite.
        total_weight: sum of the weights of all clips of the optimiser step, above 0.
        confidence: weight of each pixel, 0..1, of the same shape (`pixels.entropy_confidence`, or a given map);
            the mean is still over all pixels, so that an uncertain clip counts less. None is 1 for all.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes do not belong together, or targets are not floating point (uint8 codes, say).
    """
    z, p, w = checked_masks(logits, target_prob, weight)
    return mean_over_pixels(F.binary_cross_entropy_with_logits(z, p, reduction="none"), w, total_weight, confidence)


def checked_masks(
    logits: torch.Tensor, target_prob: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Check the arguments of a mask loss and convert them to at least float32. Raises `ValueError`."""
    if logits.ndim not in (4, 5) or logits.shape != target_prob.shape or weight.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)}, target_prob {tuple(target_prob.shape)} and weight {tuple(weight.shape)}"
            " must be (B, T, H, W) or (B, T, C, H, W), the same, and (B,)"
        )
    if not target_prob.is_floating_point():
        raise ValueError(f"target_prob must be floating point in 0..1, got {target_prob.dtype}; divide codes by 255")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(dtype), target_prob.to(dtype), weight.to(dtype)


def mean_over_pixels(
    pixels: torch.Tensor,
    weight: torch.Tensor,
    total_weight: float | torch.Tensor,
    confidence: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weighted mean over clips of each clip's mean over all other axes of ``pixels`` (B, ...).

    Raises:
        ValueError: ``confidence`` is given and of another shape.
    """
    if confidence is not None:
        if confidence.shape != pixels.shape:
            raise ValueError(f"confidence {tuple(confidence.shape)} must have the shape {tuple(pixels.shape)}")
        pixels = pixels * confidence.to(pixels.dtype)
    return mean_over_clips(pixels.flatten(1).mean(dim=1), weight, total_weight)


def mean_over_clips(clip_B: torch.Tensor, weight: torch.Tensor, total_weight: float | torch.Tensor) -> torch.Tensor:
    """sum_b w_b * clip_b / total_weight."""
    # where() and not just a product: a clip of weight 0 must not bring in 0 * inf
    return (torch.where(weight > 0, clip_B, 0) * weight).sum() / total_weight


EF_BETA = 0.05
"""Error of an ejection fraction (0..1) below which the loss is quadratic: about the error of the targets."""


def phase_bce(
    logits: torch.Tensor, target_phase: torch.Tensor, weight: torch.Tensor, *, total_weight: float | torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy with soft targets, averaged over the frames of the whole batch whose phase is known.

    Args:
        logits: (B, T).
        target_phase: (B, T), 0..1, NaN if unknown.
        weight: (B,), weight of each clip.
        total_weight: sum over all clips of the optimiser step of weight times known frames; if it is 0, so is the
            loss.

    Returns:
        Scalar, as in `soft_mask_bce`; its gradient is 0, not missing, if nothing is known.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    known = torch.isfinite(target_phase) & (weight > 0)[:, None]
    target = torch.where(known, target_phase, 0).to(dtype)
    frame_BT = F.binary_cross_entropy_with_logits(logits.to(dtype), target, reduction="none")
    return _mean_of_known(frame_BT, known, weight[:, None], total_weight)


def ef_smooth_l1(
    ef: torch.Tensor, target_ef: torch.Tensor, weight: torch.Tensor, *, total_weight: float | torch.Tensor
) -> torch.Tensor:
    """Smooth L1 loss (Girshick 2015) with beta `EF_BETA`, averaged over the clips of the whole batch whose EF is known.

    Args:
        ef: predicted ejection fraction (B,), 0..1.
        target_ef: (B,), 0..1, NaN if unknown.
        weight: (B,), weight of each clip.
        total_weight: sum of the weights of all clips of the optimiser step whose EF is known; if it is 0, so is
            the loss.

    Returns:
        Scalar, as in `phase_bce`.
    """
    dtype = torch.promote_types(ef.dtype, torch.float32)
    known = torch.isfinite(target_ef) & (weight > 0)
    target = torch.where(known, target_ef, 0).to(dtype)
    clip_B = F.smooth_l1_loss(ef.to(dtype), target, reduction="none", beta=EF_BETA)
    return _mean_of_known(clip_B, known, weight, total_weight)


def _mean_of_known(
    values: torch.Tensor, known: torch.Tensor, weight: torch.Tensor, total_weight: float | torch.Tensor
) -> torch.Tensor:
    total = torch.as_tensor(total_weight, dtype=values.dtype, device=values.device)
    return (torch.where(known, values, 0) * weight.to(values.dtype)).sum() / torch.where(total > 0, total, 1)
