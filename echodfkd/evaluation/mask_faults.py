"""Faults of a mask that no training of the embedded judge makes: turned, stretched, leaked, cut, late, frozen.

Legend: T frames, H rows, W columns. All masks are bool (T, H, W).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

TURNS_DEG = (8, 20, 45)
STRETCHES = {"narrow 0.85": (1.0, 0.85), "narrow 0.7": (1.0, 0.7), "wide 1.2": (1.0, 1.2), "long 1.2": (1.2, 1.0)}
"""Factors along rows and columns."""
CUTS = (0.1, 0.25)
"""Shares of the mask's height."""
LAGS = (1, 3, 6)
"""Frames."""
LEAK = 0.3
"""Share of the atrium's height, from the annulus, that joins the ventricle."""


def unseen_faults(
    mask: np.ndarray, others: dict[str, np.ndarray], *, ed: int | None, es: int | None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Faulty masks by name.

    Args:
        mask: the ventricle's.
        others: masks of other structures, of which LA and myocardium are taken if they are there.
        ed: the number of an end-diastolic frame, which the mask is frozen at; None freezes none.
        es: likewise at end-systole.
        seed: of the holes and of the frames without a mask.
    """
    rng = np.random.default_rng(seed)
    found = {f"late {lag}": np.roll(mask, lag, axis=0) for lag in LAGS if lag < len(mask)}
    frozen = {"frozen at ED": ed, "frozen at ES": es}
    found |= {name: np.broadcast_to(mask[at], mask.shape).copy() for name, at in frozen.items() if at is not None}
    found |= {f"turned {degrees}": _turned(mask, np.deg2rad(degrees)) for degrees in TURNS_DEG}
    found |= {
        name: _about_centre(mask, np.diag([1 / rows, 1 / columns])) for name, (rows, columns) in STRETCHES.items()
    }
    for share in CUTS:
        found[f"apex cut {share}"] = mask & ~_band(mask, 0.0, share)
        found[f"base cut {share}"] = mask & ~_band(mask, 1.0 - share, 1.0)
    if "LA" in others:
        found["leak into LA"] = mask | (others["LA"] & _band(others["LA"], 0.0, LEAK))
        found["with LA"] = mask | others["LA"]
    if "myocardium" in others:
        found["with myocardium"] = mask | others["myocardium"]
    smooth = ndimage.gaussian_filter(rng.normal(size=mask.shape), (0, 1, 1))
    found["holes"] = mask & (smooth < smooth.std() * 0.8)
    found["empty frames"] = mask & (rng.random(len(mask)) > 0.25)[:, None, None]
    return found


def _turned(mask: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return _about_centre(mask, np.array([[cos, -sin], [sin, cos]]))


def _about_centre(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Each frame's mask under a linear map about its own centre; ``matrix`` maps from the new mask to the old one."""

    def change(frame: np.ndarray) -> np.ndarray:
        centre = np.array(ndimage.center_of_mass(frame))
        offset = centre - matrix @ centre
        return np.asarray(ndimage.affine_transform(frame.astype(float), matrix, offset=offset, order=1) > 0.5)

    return _each(mask, change)


def _band(mask: np.ndarray, first: float, last: float) -> np.ndarray:
    """The rows between two shares of each frame's mask's height, from its top."""

    def rows(frame: np.ndarray) -> np.ndarray:
        inside = np.flatnonzero(frame.any(1))
        top, height = inside[0], inside[-1] - inside[0] + 1
        place = (np.arange(len(frame)) - top) / height
        return np.broadcast_to(((place >= first) & (place < last))[:, None], frame.shape)

    return _each(mask, rows)


def _each(mask: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([change(frame) if frame.any() else np.zeros_like(frame) for frame in mask])
