"""Losses of distillation, normalised so that shards of a batch add up to the whole batch.

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_mask_bce(
    logits: torch.Tensor, target_prob: torch.Tensor, weight: torch.Tensor, *, total_weight: float | torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy with soft targets, averaged over the pixels of the whole batch.

    sum_b w_b * sum_thw bce(z, p) / (total_weight * T * H * W), with bce(z, p) = softplus(z) - p * z: the
    authors' ``binary_cross_entropy_with_logits`` on the teacher's probabilities, where weights are 1.
    A rank passes its own clips and the sum of ``weight`` over ALL ranks (and accumulation rounds): the losses
    of the parts, and so their gradients, then add up to those of the whole batch however it is cut. An engine
    that averages gradients over R ranks must be given R times this loss.

    Args:
        logits: (B, T, H, W), any floating dtype; computed in at least float32.
        target_prob: (B, T, H, W) floating, 0..1.
        weight: (B,), weight of each clip; 0 leaves a clip out, whatever its values.
        total_weight: sum of the weights of all clips of the optimiser step, above 0.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes do not belong together, or targets are not floating point (uint8 codes, say).
    """
    if logits.shape != target_prob.shape or weight.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)}, target_prob {tuple(target_prob.shape)} and weight {tuple(weight.shape)}"
            " must be (B, T, H, W), (B, T, H, W) and (B,)"
        )
    if not target_prob.is_floating_point():
        raise ValueError(f"target_prob must be floating point in 0..1, got {target_prob.dtype}; divide codes by 255")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    z, p, w = logits.to(dtype), target_prob.to(dtype), weight.to(dtype)
    clip_mean_B = F.binary_cross_entropy_with_logits(z, p, reduction="none").flatten(1).mean(dim=1)
    # where() and not a product alone: a clip of weight 0 must not bring in 0 * inf
    return (torch.where(w > 0, clip_mean_B, 0) * w).sum() / total_weight
