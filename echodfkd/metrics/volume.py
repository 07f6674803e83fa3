"""Volume of the left ventricle from one apical view.

Both formulas are those of the chamber quantification guideline (Lang et al., J Am Soc Echocardiogr 28, 2015) for one
plane. They treat the ventricle as a body with circular sections along its long axis, here the principal axis of the
mask's pixels, because a mask has no landmarks.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import math

import numpy as np

from echodfkd.metrics.beat import long_axis
from echodfkd.metrics.spacing import Spacing, pixel_sides

NUM_DISCS = 20
"""Discs of the method of discs, as in the guideline."""
_SUBPIXELS = 3
"""A pixel is cut into this number squared and its parts dealt to discs, which are hardly wider than a pixel."""


def area_length_volume(mask_THW: np.ndarray, *, spacing: Spacing = 1.0) -> np.ndarray:
    """Area-length volume V = 8 A^2 / (3 pi L), float64 (T,), in cubes of the spacing's unit.

    L is the long axis of the ellipse with the mask's second moments (`beat.long_axis`, a fourth of it): a stray
    pixel hardly moves it. Exact for an ellipsoid of revolution; 0 if the mask is empty.

    Args:
        mask_THW: bool.
        spacing: of a pixel.
    """
    assert mask_THW.dtype == bool, f"masks are bool, got {mask_THW.dtype}"
    area = mask_THW.sum((1, 2)) * math.prod(pixel_sides(spacing))
    length = 4.0 * long_axis(mask_THW, spacing=spacing)
    with np.errstate(invalid="ignore", divide="ignore"):
        volume = 8.0 * area**2 / (3.0 * np.pi * length)
    return np.where(length > 0, volume, 0.0)


def simpson_volume(mask_THW: np.ndarray, *, spacing: Spacing = 1.0) -> np.ndarray:
    """Single-plane method of discs: V = pi / 4 * sum of d_i^2 * L / 20, float64 (T,), in cubes of the spacing's unit.

    The discs divide the principal axis evenly from one end of the mask to the other, and the diameter d_i is the
    mask's area in a disc's slab over the slab's height. 0 if the mask is empty. No disc is thinner than a pixel: a
    mask shorter than 20 pixels has fewer.

    Args:
        mask_THW: bool.
        spacing: of a pixel.
    """
    assert mask_THW.dtype == bool, f"masks are bool, got {mask_THW.dtype}"
    unit = min(pixel_sides(spacing))
    down, across = (side / unit for side in pixel_sides(spacing))
    volume = [_discs(mask, down, across) for mask in mask_THW]
    return np.array(volume, np.float64).reshape(len(mask_THW)) * unit**3


def _discs(mask_HW: np.ndarray, down: float, across: float) -> float:
    """Volume of one frame's mask; pixels have these sides, the smaller of which is 1."""
    y, x = np.nonzero(mask_HW)
    if not len(x):
        return 0.0
    points = np.stack([across * x, down * y], axis=1)
    points -= points.mean(axis=0)
    along = np.linalg.eigh(points.T @ points)[1][:, 1] if len(x) > 1 else np.array([0.0, 1.0])
    step = (np.arange(_SUBPIXELS) + 0.5) / _SUBPIXELS - 0.5
    shift = (step[:, None] * across * along[0] + step[None, :] * down * along[1]).ravel()
    depth = (points @ along)[:, None] + shift
    low, high = depth.min() - 0.5 / _SUBPIXELS, depth.max() + 0.5 / _SUBPIXELS
    num_discs = min(NUM_DISCS, max(1, int(high - low)))
    height = (high - low) / num_discs
    area = np.histogram(depth, bins=num_discs, range=(low, high))[0] * down * across / _SUBPIXELS**2
    return float(np.pi / 4.0 * np.square(area / height).sum() * height)
