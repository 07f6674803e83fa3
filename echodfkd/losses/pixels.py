"""Mask losses that are means over pixels: KL divergence with temperature, focal loss; and entropy confidence.

All take the arguments of `targets.soft_mask_bce`, raise as it does, are computed in at least float32, and add up over
the shards of a batch.

Legend: B clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from echodfkd.core.mask_codes import LEAST_PROB, MASK_CODES, PROBABILITY
from echodfkd.losses.targets import checked_masks, mean_over_pixels

HALF_CODE = LEAST_PROB[MASK_CODES[PROBABILITY]]
"""Half a step of the codes round(255 p): the accuracy of p at a code of 0 or 255. Logits are known up to 6.2."""


def soft_mask_kl(
    logits: torch.Tensor,
    target_prob: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
    temperature: float,
    confidence: torch.Tensor | None = None,
    least_prob: float = HALF_CODE,
) -> torch.Tensor:
    """Kullback-Leibler divergence KL(teacher || student), both softened by a temperature, class by class.

    T^2 KL(p_T || s(z / T)) with p_T = s(logit(p) / T) and the logistic function s: distillation of Hinton, Vinyals and
    Dean (2015), "Distilling the knowledge in a neural network", for two outcomes per pixel. T^2 keeps the gradient's
    size, T (s(z / T) - p_T), which for large T approaches (z - logit p) / 4: a regression of logits. At T = 1 the
    gradient is that of `soft_mask_bce`, and the value is less by the teacher's entropy, so that 0 is perfect.

    Probabilities are held ``least_prob`` away from 0 and 1, because a logit must be finite.

    Args:
        logits: (B, T, H, W) or (B, T, C, H, W).
        target_prob: as logits, 0..1.
        weight: (B,).
        total_weight: see `targets.soft_mask_bce`.
        temperature: T, above 0.
        confidence: as logits, or None.
        least_prob: smallest distance of the targets from 0 and 1.

    Returns:
        Scalar; 0 (up to rounding) if student and teacher agree.
    """
    z, p, w = checked_masks(logits, target_prob, weight)
    teacher = torch.sigmoid(torch.logit(p, eps=least_prob) / temperature)
    entropy = -torch.xlogy(teacher, teacher) - torch.xlogy(1 - teacher, 1 - teacher)
    cross = F.binary_cross_entropy_with_logits(z / temperature, teacher, reduction="none")
    return mean_over_pixels(temperature**2 * (cross - entropy), w, total_weight, confidence)


def soft_mask_focal(
    logits: torch.Tensor,
    target_prob: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
    gamma: float,
    confidence: torch.Tensor | None = None,
) -> torch.Tensor:
    """Focal loss: cross-entropy weighted down if the student is nearly right, |p - s(z)|^gamma * bce(z, p).

    For targets of 0 and 1 this is the focal loss of Lin et al. (2017), "Focal loss for dense object detection", without
    its class weight. For soft targets it is the quality focal loss of Li et al. (2020), "Generalized focal loss":
    the other extension, linear in p, would not be smallest at s(z) = p.

    Args:
        logits: (B, T, H, W) or (B, T, C, H, W).
        target_prob: as logits, 0..1.
        weight: (B,).
        total_weight: see `targets.soft_mask_bce`.
        gamma: 0 (plain cross-entropy), or at least 1 (between them the gradient has a pole at s(z) = p).
        confidence: as logits, or None.

    Returns:
        Scalar, 0 if student and teacher agree (gamma above 0).

    Raises:
        ValueError: also if gamma is neither.
    """
    if gamma != 0 and not gamma >= 1:
        raise ValueError(f"gamma: got {gamma}, must be 0 or at least 1")
    z, p, w = checked_masks(logits, target_prob, weight)
    cross = F.binary_cross_entropy_with_logits(z, p, reduction="none")
    return mean_over_pixels((p - torch.sigmoid(z)).abs().pow(gamma) * cross, w, total_weight, confidence)


def entropy_confidence(target_prob: torch.Tensor) -> torch.Tensor:
    """Confidence of a teacher in each pixel: 1 - H(p) / ln 2, with the entropy H of two outcomes (Shannon 1948).

    1 at p = 0 and p = 1, 0 at p = 1/2. Targets of less entropy weigh more, as in Kwon et al. (2020), "Adaptive
    knowledge distillation based on entropy", there between teachers and here between pixels.

    Args:
        target_prob: any shape, 0..1.

    Returns:
        The same shape, float32 (float64 for float64), 0..1.
    """
    p = target_prob.to(torch.promote_types(target_prob.dtype, torch.float32))
    return (1 + (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)).clamp(0, 1)
