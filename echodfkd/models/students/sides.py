"""Frames of any size for a student that works at one: they are resized to it, and its logits back.

Legend: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def working_sides(H: int, W: int, *, side: int, multiple: int) -> tuple[int, int]:
    """Rows and columns that frames of H x W pixels are resized to: the longer becomes ``side``, both fit ``multiple``.

    A ``side`` of 0 leaves them as they are.
    """
    if not side:
        return H, W
    rows, columns = (max(multiple, round(length * side / max(H, W) / multiple) * multiple) for length in (H, W))
    return rows, columns


def resize(images: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Images (..., H, W) of those rows and columns, bilinear, without aliasing; the same tensor if it has them."""
    if images.shape[-2:] == sides:
        return images
    flat_NCHW = images.reshape(1, -1, *images.shape[-2:]).float()
    resized = F.interpolate(flat_NCHW, size=sides, mode="bilinear", align_corners=False, antialias=True)
    return resized.view(*images.shape[:-2], *sides)
