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


def relative_sides(aspect: float) -> Spacing | None:
    """Height and width of a pixel of area 1 that is ``aspect`` times as wide as high; None as `spacing_of`."""
    found = spacing_of(aspect**-0.5, aspect**0.5) if aspect > 0 else None
    return 1.0 if isinstance(found, float) else found


def known_sides(spacing_mm: Spacing | None, aspect: float) -> Spacing:
    """Height and width of a pixel: in millimetres if they are known, else of area 1 (`relative_sides`)."""
    return spacing_mm or relative_sides(aspect) or 1.0


def spacing_of(down: float, across: float) -> Spacing | None:
    """One number, the mean, for a pixel that is square to `SQUARE`; None for one that no scanner has."""
    small, large = sorted((down, across))
    if large > MOST_STRETCH * small:
        return None
    return (down + across) / 2.0 if large - small <= SQUARE * small else (down, across)
