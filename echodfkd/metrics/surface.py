"""Distances between the borders of two masks: HD95 and ASSD.

A mask's border is its pixels with a neighbour (above, below, left, right) outside of it; outside the frame counts as
outside. Distances are from every border pixel of one mask to the nearest border pixel of the other, both ways.
Definitions and defaults are those of MONAI's `compute_hausdorff_distance` (95th percentile) and
`compute_average_surface_distance` (symmetric), but for empty masks.

Legend: ... any leading axes, H rows, W columns, P and Q border pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echodfkd.metrics.spacing import Spacing, pixel_sides

PERCENTILE = 95.0
_BLOCK = 1024
"""Border pixels compared with the other border at once: bounds memory on frames of any size."""


@dataclass(frozen=True)
class SurfaceDistance:
    """``hd95`` and ``assd``, float64 (...), in the unit of the spacing (pixels if it is 1)."""

    hd95: np.ndarray
    assd: np.ndarray


def surface_distance(a_mask: np.ndarray, b_mask: np.ndarray, *, spacing: Spacing = 1.0) -> SurfaceDistance:
    """HD95 and ASSD of each frame.

    * HD95: the larger of the two directed 95th percentiles (linear between order statistics) of the distances.
    * ASSD: the mean of all distances of both directions together.

    Args:
        a_mask: bool (..., H, W).
        b_mask: bool, the same shape.
        spacing: of a pixel; in millimetres for a result in millimetres.

    Returns:
        Both distances per frame. Empty masks: 0 if both are empty; the frame's diagonal if exactly one is,
        which no pair of masks can exceed. (The BraTS challenges do so; leaving such frames out, as MONAI does,
        would reward a network that misses the ventricle.)
    """
    assert a_mask.dtype == bool, f"masks are bool, got {a_mask.dtype}"
    assert b_mask.dtype == bool, f"masks are bool, got {b_mask.dtype}"
    assert a_mask.shape == b_mask.shape, f"masks differ in shape: {a_mask.shape} and {b_mask.shape}"
    frames, image = a_mask.shape[:-2], a_mask.shape[-2:]
    pairs = zip(a_mask.reshape(-1, *image), b_mask.reshape(-1, *image), strict=True)
    sides = np.array(pixel_sides(spacing))
    values = np.array([_one_frame(a, b, sides) for a, b in pairs], np.float64).reshape(-1, 2)
    return SurfaceDistance(values[:, 0].reshape(frames), values[:, 1].reshape(frames))


def border(mask_HW: np.ndarray) -> np.ndarray:
    """A mask's border pixels, bool (H, W)."""
    padded = np.pad(mask_HW, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask_HW & ~inside


def _one_frame(a_HW: np.ndarray, b_HW: np.ndarray, sides_2: np.ndarray) -> tuple[float, float]:
    """HD95 and ASSD, of pixels of this height and width."""
    a_P2, b_Q2 = (np.argwhere(border(mask)) * sides_2 for mask in (a_HW, b_HW))
    if not len(a_P2) and not len(b_Q2):
        return 0.0, 0.0
    if not len(a_P2) or not len(b_Q2):
        diagonal = float(np.hypot(*(a_HW.shape * sides_2)))
        return diagonal, diagonal
    there, back = _nearest(a_P2, b_Q2), _nearest(b_Q2, a_P2)
    hd95 = max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE))
    return float(hd95), float(np.concatenate([there, back]).mean())


def _nearest(from_P2: np.ndarray, to_Q2: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest of the others, float64 (P,)."""
    found = []
    for start in range(0, len(from_P2), _BLOCK):
        gap = from_P2[start : start + _BLOCK, None] - to_Q2[None]
        found.append(np.square(gap).sum(axis=2).min(axis=1))
    return np.sqrt(np.concatenate(found))
