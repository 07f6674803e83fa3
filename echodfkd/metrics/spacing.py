"""Sides of pixels, which need not be square."""

from __future__ import annotations

Spacing = float | tuple[float, float]
"""Side of a square pixel, or height and width of one."""

SQUARE = 0.01
"""Sides that differ by less are equal: a share of the smaller one."""
MOST_STRETCH = 4.0
"""Longest side over the shortest. A file's numbers may be wrong, and frames are padded until they are square."""


def pixel_sides(spacing: Spacing) -> tuple[float, float]:
    """Height and width of a pixel."""
    return spacing if isinstance(spacing, tuple) else (spacing, spacing)


def spacing_of(down: float, across: float) -> Spacing | None:
    """One number, the mean, for a pixel that is square to `SQUARE`; None for one that no scanner has."""
    small, large = sorted((down, across))
    if large > MOST_STRETCH * small:
        return None
    return (down + across) / 2.0 if large - small <= SQUARE * small else (down, across)
