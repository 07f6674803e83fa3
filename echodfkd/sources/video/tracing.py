"""Tracings of the left ventricle: EchoNet-Dynamic's long axis and chords across it, EchoNet-Pediatric's contour.

Legend: n rows of a tracing, H rows and W columns of pixels.

A tracing is a float array (n, 4) of x1, y1, x2, y2 in pixels. Row 0 is the long axis; the others are chords
from one wall to the other, in order along that axis. EchoNet-Dynamic has 20 chords, some repaired
tracings have fewer. Or it is an array (n, 2) of points x, y, in order around the ventricle.
"""

from __future__ import annotations

import numpy as np

from echodfkd.core.errors import ClipError

NUM_CHORDS = 20
"""Chords that `mask_to_tracing` writes."""

MAX_TRACING_ROWS = 100
"""Most chords of one tracing: each edge costs a pass over the image."""
MAX_CONTOUR_POINTS = 1000
"""Most points of one contour, as machines write them."""
MAX_COORDINATE = 1e6
"""Largest coordinate in pixels: products of two stay exact in 64 bits."""

MIN_AREA, MAX_AREA = 0.005, 0.6
"""Possible share of the frame that a ventricle fills. Chosen: from 8 x 8 pixels of 112 x 112 to most of the sector."""
MAX_OVERHANG = 0.1
"""Farthest that a corner may lie outside the frame, as a share of the frame's side. Chosen."""
MIN_COVERED = 0.6
"""Least share of the long axis that the chords cover; a tracing that was cut short covers less. Chosen: they cover all
of it, and published repaired tracings lack up to a fifth."""
_MAX_STEP_BACK = 0.05
"""Farthest that a chord may lie behind the one before it, as a share of the long axis. Chosen: they are in order."""
_MAX_CROSSED = 0.1
"""Largest share of a polygon's area that may be lost where its outline crosses itself; a twist at the apex is small."""

_SLAB_PX = 0.5
"""Half the thickness of the slice in which a chord's ends are searched: in a connected mask, a slice of one
pixel holds a pixel's centre at any angle."""


def traced_mask(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """`tracing_to_mask` of a tracing that can be a ventricle in a frame of this size.

    Raises:
        ClipError: as by `tracing_to_mask`, or its corners lie outside the frame, its outline crosses itself, its chords
            are out of order or cover too little of its long axis, or its area is too small or too large.
    """
    mask = tracing_to_mask(rows, height, width)
    x, y = _corners(rows)
    for name, values, side in (("x", x, width), ("y", y, height)):
        if values.min() < -MAX_OVERHANG * side or values.max() > (1 + MAX_OVERHANG) * side:
            raise ClipError(
                f"a tracing has {name} from {values.min()} to {values.max()}, its frame has {width} x {height} pixels"
            )
    # Pick's theorem: a polygon that does not cross itself holds these pixels, those on its outline counted whole.
    turned_x, turned_y = np.roll(x, -1), np.roll(y, -1)
    twice_area = abs(int((x * turned_y - turned_x * y).sum()))
    outline = int(np.gcd(np.abs(turned_x - x), np.abs(turned_y - y)).sum())
    simple = twice_area / 2 + outline / 2 + 1
    left, top = min(int(x.min()), 0), min(int(y.min()), 0)
    whole = _fill_polygon(x - left, y - top, max(int(y.max()) + 1, height) - top, max(int(x.max()) + 1, width) - left)
    if abs(int(whole.sum()) - simple) > _MAX_CROSSED * simple:
        raise ClipError("a tracing's outline crosses itself: its rows are out of order, or of several tracings")
    if rows.shape[1] == 4:
        _check_chords(rows)
    if not MIN_AREA <= (share := mask.sum() / mask.size) <= MAX_AREA:
        raise ClipError(
            f"a tracing fills {share:.2%} of its frame of {width} x {height}, expected {MIN_AREA:.1%} to {MAX_AREA:.0%}"
        )
    return mask


def tracing_to_mask(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fill the polygon of a tracing's chords, or of a contour.

    As in EchoNet-Dynamic's own reader, the long axis is left out, corners are rounded to whole pixels, and
    the polygon goes down the first ends and back up the second ones. A pixel belongs to it if its
    centre lies inside (even-odd rule) or on an edge.

    Args:
        rows: float (n, 4) or (n, 2), n >= 3.
        height: H.
        width: W.

    Returns:
        bool (H, W).

    Raises:
        ClipError: fewer than two chords (three points), more rows than `MAX_TRACING_ROWS` (`MAX_CONTOUR_POINTS`), or a
            coordinate that is not a number or beyond `MAX_COORDINATE`.
    """
    if rows.ndim != 2 or rows.shape[1] not in (2, 4) or len(rows) < 3:
        raise ClipError(f"a tracing of {len(rows)} rows has no area; expected a long axis and at least 2 chords")
    most = MAX_TRACING_ROWS if rows.shape[1] == 4 else MAX_CONTOUR_POINTS
    if len(rows) > most:
        usual = f"about {1 + NUM_CHORDS}, " if rows.shape[1] == 4 else ""
        raise ClipError(f"a tracing has {len(rows)} rows; expected {usual}at most {most}")
    if not np.isfinite(rows).all():
        raise ClipError("a tracing holds a coordinate that is not a number")
    if np.abs(rows).max() > MAX_COORDINATE:
        raise ClipError(f"a tracing holds the coordinate {np.abs(rows).max():g}, which is no pixel of any image")
    return _fill_polygon(*_corners(rows), height, width)


def _corners(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X and y of the polygon's corners, int64."""
    corners = np.rint(rows).astype(np.int64)
    if rows.shape[1] == 4:
        corners = np.concatenate([corners[1:, :2], corners[:0:-1, 2:]])
    return corners[:, 0], corners[:, 1]


def _check_chords(rows: np.ndarray) -> None:
    """Raise `ClipError` if chords go to and fro along their long axis, or leave too much of it out.

    A first row that is shorter than a pixel, or does not stand across the others, is no axis and tells nothing.
    """
    axis = rows[0, 2:] - rows[0, :2]
    length = float(np.hypot(*axis))
    chords = rows[1:, 2:] - rows[1:, :2]
    if length < 1 or not np.abs(chords @ axis).sum() < 0.7 * length * np.hypot(*chords.T).sum():
        return
    along = (rows[1:].reshape(-1, 2, 2).mean(1) - rows[0, :2]) @ axis / length**2
    steps = np.diff(along)
    if steps.min() < -_MAX_STEP_BACK and steps.max() > _MAX_STEP_BACK:
        raise ClipError("a tracing's chords go to and fro: its rows are out of order, or of several tracings")
    if (covered := float(np.ptp(along))) < MIN_COVERED:
        raise ClipError(
            f"a tracing's chords cover {covered:.0%} of its long axis, expected {MIN_COVERED:.0%} or more: rows are"
            " missing"
        )


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
        (ED frame, ES frame).

    Raises:
        ClipError: all areas are equal.
    """
    assert len(masks) >= 2, f"ED and ES need two traced frames, got {len(masks)}"
    areas = {frame: int(mask.sum()) for frame, mask in masks.items()}
    ranked = sorted(areas, key=lambda frame: (-areas[frame], frame))
    if areas[ranked[0]] == areas[ranked[-1]]:
        raise ClipError(
            f"its traced frames {', '.join(map(str, ranked))} have one area, {areas[ranked[0]]} pixels: which is ED?"
        )
    return ranked[0], ranked[-1]
