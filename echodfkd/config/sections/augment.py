"""How clips are varied on their way to the students, as options; docs/reference/objectives.md has the formulas."""

from __future__ import annotations

from dataclasses import dataclass

GEOMETRY = ("rotate_deg", "scale", "shift", "crop", "cone")
"""Options that move or hide pixels, so that masks must follow."""

_MOST = {"rotate_deg": 180, "scale": 1, "shift": 1, "crop": 1, "gain": 1, "gamma": 3, "speckle": 3, "cone": 1}
"""What each strength may be at most; scale, crop and gain stay below it."""


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 is off. Every draw is a function of (seed, clip index, epoch) and holds for the whole clip."""

    where: str = "before_teacher"
    """before_teacher (the teacher sees what the student sees), or after_teacher (masks move with the video)."""
    rotate_deg: float = 0.0
    """Rotation about the centre, uniform in +- this many degrees."""
    scale: float = 0.0
    """Zoom by a factor uniform in 1 +- this."""
    shift: float = 0.0
    """Shift along each axis, uniform in +- this share of the side."""
    crop: float = 0.0
    """Cut to a square of 1 - u of the side, u uniform in 0 .. this, anywhere in the frame, and enlarged to it."""
    gain: float = 0.0
    """Grey levels times a factor uniform in 1 +- this."""
    gamma: float = 0.0
    """Grey levels (of 0 .. 1) to the power exp(u), u uniform in +- this."""
    speckle: float = 0.0
    """Grey levels times 1 + this times normal noise, drawn for every pixel of every frame."""
    cone: float = 0.0
    """Share of clips that are seen through a sector with its apex at the middle of the upper edge."""

    @property
    def is_on(self) -> bool:
        """Whether any strength is above 0."""
        return any(getattr(self, name) > 0 for name in _MOST)

    @property
    def moves_pixels(self) -> bool:
        """Whether masks must follow."""
        return any(getattr(self, name) > 0 for name in GEOMETRY)
