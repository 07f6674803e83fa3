"""Tracings of the left ventricle as EchoNet-Dynamic stores them: a long axis and chords across it.

Legend: n rows of a tracing, H rows and W columns of pixels.

A tracing is a float array (n, 4) of x1, y1, x2, y2 in pixels. Row 0 is the long axis; the others are chords
from one wall to the other, in order along that axis. EchoNet-Dynamic has 20 chords, some repaired
tracings have fewer.
"""

from __future__ import annotations

import numpy as np

from echodfkd.core.errors import ClipError

NUM_CHORDS = 20
"""Chords that `mask_to_tracing` writes."""

MAX_TRACING_ROWS = 100
"""Most rows of one tracing: each edge costs a pass over the image."""
MAX_COORDINATE = 1e6
"""Largest coordinate in pixels: products of two stay exact in 64 bits."""

_SLAB_PX = 0.5
"""Half the thickness of the slice in which a chord's ends are searched: in a connected mask, a slice of one
pixel holds a pixel's centre at any angle."""


def tracing_to_mask(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fill the polygon of a tracing's chords.

    As in EchoNet-Dynamic's own reader, the long axis is left out, corners are rounded to whole pixels, and
    the polygon goes down the first ends and back up the second ones. A pixel belongs to it if its
    centre lies inside (even-odd rule) or on an edge.

    Args:
        rows: float (n, 4), n >= 3.
        height: H.
        width: W.

    Returns:
        bool (H, W).

    Raises:
        ClipError: fewer than two chords or more than `MAX_TRACING_ROWS` rows, or a coordinate that is not a number or
            beyond `MAX_COORDINATE`.
    """
    if rows.ndim != 2 or rows.shape[1:] != (4,) or len(rows) < 3:
        raise ClipError(f"a tracing of {len(rows)} rows has no area; expected a long axis and at least 2 chords")
    if len(rows) > MAX_TRACING_ROWS:
        raise ClipError(f"a tracing has {len(rows)} rows; expected about {1 + NUM_CHORDS}, at most {MAX_TRACING_ROWS}")
    if not np.isfinite(rows).all():
        raise ClipError("a tracing holds a coordinate that is not a number")
    if np.abs(rows).max() > MAX_COORDINATE:
        raise ClipError(f"a tracing holds the coordinate {np.abs(rows).max():g}, which is no pixel of any image")
    chords = np.rint(rows[1:]).astype(np.int64)
    corner_x = np.concatenate([chords[:, 0], chords[::-1, 2]])
    corner_y = np.concatenate([chords[:, 1], chords[::-1, 3]])
    return _fill_polygon(corner_x, corner_y, height, width)


def _fill_polygon(corner_x: np.ndarray, corner_y: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels inside or on a polygon with whole-numbered corners, in exact integer arithmetic.

    From each pixel one ray goes right and one goes left, and each counts the edges it crosses. Both counts
    are odd inside and even outside; they differ on an edge, because the rays treat a corner at their own
    height differently (O'Rourke, "Computational Geometry in C", 2nd edition, section 7.4).
    """
    x = np.arange(width)[None, :]
    y = np.arange(height)[:, None]
    right = np.zeros((height, width), dtype=bool)
    left = np.zeros((height, width), dtype=bool)
    corner = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in zip(corner_x, corner_y, np.roll(corner_x, -1), np.roll(corner_y, -1), strict=True):
        gap = ((y - y1) * (x2 - x1) - (x - x1) * (y2 - y1)) * np.sign(y2 - y1)  # > 0: the edge is on the right
        right ^= ((y1 > y) != (y2 > y)) & (gap > 0)
        left ^= ((y1 < y) != (y2 < y)) & (gap < 0)
        corner |= (x == x1) & (y == y1)
    return right | left | corner


def mask_to_tracing(mask: np.ndarray) -> np.ndarray:
    """A tracing of a mask: its long axis and `NUM_CHORDS` chords across it.

    The axis is the principal axis of the mask's pixels, from its upper to its lower end (apex first in an
    apical view). Chords stand evenly on it from end to end and reach the outermost pixel on both sides,
    so that `tracing_to_mask` returns nearly the same mask (tested: Dice at least 0.95).

    Args:
        mask: bool (H, W), not empty.

    Returns:
        float64 (1 + NUM_CHORDS, 4).
    """
    y, x = np.nonzero(mask)
    assert len(x) > 0, "a tracing needs a mask that is not empty"
    points = np.stack([x, y], axis=1).astype(np.float64)
    centre = points.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(points - centre, rowvar=False, bias=True))
    along = axes[:, -1] if axes[1, -1] >= 0 else -axes[:, -1]
    across = np.array([-along[1], along[0]])
    depth, offset = (points - centre) @ along, (points - centre) @ across
    rows = [np.concatenate([centre + depth.min() * along, centre + depth.max() * along])]
    for level in np.linspace(depth.min(), depth.max(), NUM_CHORDS):
        distance = np.abs(depth - level)
        near = offset[distance <= max(_SLAB_PX, distance.min())]
        middle = centre + level * along
        rows.append(np.concatenate([middle + near.min() * across, middle + near.max() * across]))
    return np.stack(rows)


def order_by_area(masks: dict[int, np.ndarray]) -> tuple[int, int]:
    """The end-diastolic and end-systolic frame of a traced video: the largest and the smallest area.

    The order of rows or of frame numbers is not reliable: readers of EchoNet-Dynamic disagree on it.

    Args:
        masks: frame number to bool (H, W), at least two frames.

    Returns:
        (ED frame, ES frame). Of equal areas the earlier frame is ED.
    """
    assert len(masks) >= 2, f"ED and ES need two traced frames, got {len(masks)}"
    ranked = sorted(masks, key=lambda frame: (-int(masks[frame].sum()), frame))
    return ranked[0], ranked[-1]
