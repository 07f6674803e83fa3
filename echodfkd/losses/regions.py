"""Mask losses of a clip's region as a whole: soft Dice and Lovasz hinge.

A ratio of areas over a batch is not a mean over pixels and would depend on how the batch is cut. Here every clip (all
its frames together) and class has one ratio, and the loss is their weighted mean, which adds up over any shards that do
not cut a clip.

All take the arguments of `targets.soft_mask_bce`, raise as it does, and are computed in at least float32.

Legend: B clips, T frames, C classes, H rows, W columns, N = T * H * W pixels of a clip.
"""

from __future__ import annotations

import torch

from echodfkd.losses.targets import checked_masks, mean_over_clips

DICE_SMOOTH = 1.0
"""In pixels: keeps the ratio of two empty masks defined."""


def soft_dice(
    logits: torch.Tensor, target_prob: torch.Tensor, weight: torch.Tensor, *, total_weight: float | torch.Tensor
) -> torch.Tensor:
    """One minus the Dice coefficient of two soft masks, with squared areas.

    1 - (2 sum pq + e) / (sum p^2 + sum q^2 + e) = sum (p - q)^2 / (sum p^2 + sum q^2 + e) with q = s(z) and e =
    `DICE_SMOOTH`: the form of Milletari et al. (2016), "V-Net". With plain sums in the denominator the
    loss would not be smallest at q = p for a soft target; with squares it is 0 exactly if q = p.

    If the teacher's mask is empty, it is sum q^2 / (sum q^2 + e): near 0 for a nearly empty student, 1 for a large
    one. A full mask is no special case.

    Args:
        logits: (B, T, H, W) or (B, T, C, H, W).
        target_prob: as logits, 0..1.
        weight: (B,).
        total_weight: see `targets.soft_mask_bce`.

    Returns:
        Scalar, 0..1: mean over clips and classes.
    """
    z, p, w = checked_masks(logits, target_prob, weight)
    return mean_over_clips(dice_distance(z, p), w, total_weight)


def dice_distance(logits: torch.Tensor, target_prob: torch.Tensor) -> torch.Tensor:
    """`soft_dice` of each clip, the mean over its classes: (B,)."""
    p_BCN, q_BCN = _by_class(target_prob), _by_class(torch.sigmoid(logits))
    distance = (p_BCN - q_BCN).square().sum(-1)
    size = p_BCN.square().sum(-1) + q_BCN.square().sum(-1)
    return (distance / (size + DICE_SMOOTH)).mean(dim=1)


def lovasz_hinge(
    logits: torch.Tensor,
    target_prob: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
    threshold: float,
) -> torch.Tensor:
    """Lovasz extension of the Jaccard loss at hinge errors (Berman, Triki and Blaschko 2018, binary case).

    The errors are m = max(0, 1 - z * (2g - 1)) with the teacher's mask g = [p > threshold]. They are sorted, largest
    first, and each is weighted by the increase of one minus the Jaccard index when its pixel becomes wrong after those
    before it ("The Lovasz-softmax loss", algorithm 1). It is 0 if every pixel is right by a margin of 1.

    If g is empty, one wrong pixel makes the Jaccard index 0, and so the loss is the largest error. If g is full, all
    pixels have the same weight.

    Args:
        logits: (B, T, H, W) or (B, T, C, H, W); each class is a binary mask.
        target_prob: as logits, 0..1.
        weight: (B,).
        total_weight: see `targets.soft_mask_bce`.
        threshold: probability above which a pixel belongs to the teacher's mask.

    Returns:
        Scalar, 0 or above: mean over clips and classes.
    """
    z, p, w = checked_masks(logits, target_prob, weight)
    mask_BCN = _by_class((p > threshold).to(z.dtype))
    errors_BCN = torch.relu(1 - _by_class(z) * (2 * mask_BCN - 1))
    return mean_over_clips(_lovasz_jaccard(errors_BCN, mask_BCN).mean(dim=1), w, total_weight)


def _by_class(masks: torch.Tensor) -> torch.Tensor:
    """(B, T, H, W) or (B, T, C, H, W) -> (B, C, N), C = 1 if there is no such axis."""
    return masks.flatten(1).unsqueeze(1) if masks.ndim == 4 else masks.transpose(1, 2).flatten(2)


def _lovasz_jaccard(errors_BCN: torch.Tensor, mask_BCN: torch.Tensor) -> torch.Tensor:
    """The sorted errors times the increment of the Jaccard loss at each, summed: (B, C).

    With I pixels of the mask still right and U pixels in the union so far, a wrong pixel of the mask adds 1 / U; one of
    the background increases U by one and adds I / (U (U - 1)). Differences of the loss itself would lose digits.
    The first pixel of an empty mask takes the loss from 0 to 1.
    """
    errors, order = torch.sort(errors_BCN, dim=-1, descending=True, stable=True)
    wrong = mask_BCN.gather(-1, order)
    area = mask_BCN.sum(dim=-1, keepdim=True)
    right = area - wrong.cumsum(dim=-1)
    union = area + (1 - wrong).cumsum(dim=-1)
    steps = torch.where(wrong > 0, 1 / union.clamp(min=1), right / (union * (union - 1)).clamp(min=1))
    steps[..., :1] += (area == 0).to(steps.dtype)
    return (errors * steps).sum(dim=-1)
