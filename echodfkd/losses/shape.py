"""Mask losses on the position of a mask's border and on its change from frame to frame.

Both are means over pixels (or pairs of frames), take the arguments of `targets.soft_mask_bce`, raise as it does, are
computed in at least float32, and add up over the shards of a batch.

Legend: B clips, T frames, C classes, H rows, W columns, N frames of all clips and classes.
"""

from __future__ import annotations

import torch

from echodfkd.losses.regions import DICE_SMOOTH
from echodfkd.losses.targets import checked_masks, mean_over_pixels


def boundary_loss(
    logits: torch.Tensor,
    target_prob: torch.Tensor,
    weight: torch.Tensor,
    *,
    total_weight: float | torch.Tensor,
    threshold: float,
) -> torch.Tensor:
    """Boundary loss (Kervadec et al. 2019): wrong pixels weighted by their distance from the teacher's border.

    The mean over pixels of phi * (s(z) - g), with the teacher's mask g = [p > threshold] of each frame and its
    `signed_distance` phi. The paper drops the constant phi * g; with it the minimum is 0, at s(z) = g.

    A frame whose mask is empty or full has no border and phi = 0, so that it has no gradient: use the loss with another
    one, as in the paper.

    Args:
        logits: (B, T, H, W) or (B, T, C, H, W).
        target_prob: as logits, 0..1.
        weight: (B,).
        total_weight: see `targets.soft_mask_bce`.
        threshold: probability above which a pixel belongs to the teacher's mask.

    Returns:
        Scalar in pixels, 0 or above.
    """
    z, p, w = checked_masks(logits, target_prob, weight)
    mask = p > threshold
    phi = signed_distance(mask.flatten(0, -3)).view(mask.shape).to(z.dtype)
    return mean_over_pixels(phi * (torch.sigmoid(z) - mask.to(z.dtype)), w, total_weight)


def signed_distance(mask_NHW: torch.Tensor) -> torch.Tensor:
    """Euclidean distance to a mask's border in pixels: above 0 outside, below 0 inside.

    Outside, the distance to the nearest pixel of the mask. Inside, 1 less the distance to the nearest one outside, so
    that the mask's outermost pixels are the border, as in the code of Kervadec et al. (2019). 0 in all of a frame
    without a border.

    The squared distance is separable: a minimum along each row, then one along each column (Saito and Toriwaki 1994).

    Args:
        mask_NHW: bool.

    Returns:
        float32 (N, H, W).
    """
    inside = mask_NHW.flatten(1)
    border = (inside.any(dim=1) & ~inside.all(dim=1)).view(-1, 1, 1)
    distance = torch.where(mask_NHW, 1 - _distance_to(~mask_NHW), _distance_to(mask_NHW))
    return torch.where(border, distance, 0)


def _distance_to(mask_NHW: torch.Tensor) -> torch.Tensor:
    """Distance of every pixel to the nearest one of the mask; more than the diagonal if the mask is empty."""
    H, W = mask_NHW.shape[1:]
    far = float(H**2 + W**2)
    squared = torch.where(mask_NHW, 0.0, far)
    squared = _least(squared.transpose(1, 2)).transpose(1, 2)
    return _least(squared).sqrt()


def _least(squared_NHW: torch.Tensor) -> torch.Tensor:
    """Minimum over rows j of squared[j] + (i - j)^2, for each row i: whole numbers, exact in float32."""
    H = squared_NHW.shape[1]
    rows = torch.arange(H, dtype=squared_NHW.dtype, device=squared_NHW.device)
    least = squared_NHW
    for j in range(H):
        least = torch.minimum(least, squared_NHW[:, j : j + 1] + (rows - j).square().view(-1, 1))
    return least


def temporal_consistency(
    logits: torch.Tensor, target_prob: torch.Tensor, weight: torch.Tensor, *, total_weight: float | torch.Tensor
) -> torch.Tensor:
    """Squared difference between the frame-to-frame changes of student and teacher.

    The mean over pixels and pairs of neighbouring frames of ((q_(t+1) - q_t) - (p_(t+1) - p_t))^2 with q = s(z).
    A loss on the motion of masks beside a loss on the masks is that of Liu et al. (2020), "Efficient semantic video
    segmentation with per-frame inference"; they follow pixels by optical flow, here the teacher's own
    change is the reference. A student that is off by the same amount in every frame has 0: use it together with another
    loss.

    Args:
        logits: (B, T, H, W) or (B, T, C, H, W).
        target_prob: as logits, 0..1.
        weight: (B,).
        total_weight: see `targets.soft_mask_bce`.

    Returns:
        Scalar, 0..4.

    Raises:
        ValueError: also if a clip has a single frame.
    """
    z, p, w = checked_masks(logits, target_prob, weight)
    if z.shape[1] < 2:
        raise ValueError(f"a change over time needs at least 2 frames, got logits {tuple(logits.shape)}")
    return mean_over_pixels((torch.sigmoid(z) - p).diff(dim=1).square(), w, total_weight)


def temporal_distance(logits: torch.Tensor, target_prob: torch.Tensor) -> torch.Tensor:
    """The differences of `temporal_consistency` in each clip, as a share of the masks: (B,), 0 or more.

    sum ((q_(t+1) - q_t) - (p_(t+1) - p_t))^2 / (sum p^2 + sum q^2 + e) with sums over all frames, pixels and classes
    and the e of `regions.soft_dice`. Of masks that are right but flicker it is about the share that flickers, whatever
    the size of the heart.
    """
    p, q = target_prob, torch.sigmoid(logits)
    changes, *sizes = (part.square().flatten(1).sum(1) for part in ((q - p).diff(dim=1), p, q))
    return changes / (sizes[0] + sizes[1] + DICE_SMOOTH)
