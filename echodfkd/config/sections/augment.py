"""Options of `augment`: random changes of the training clips (formulas: docs/reference/augmentation.md)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from echodfkd.config.sections.option import option

GEOMETRY = ("rotate_deg", "scale", "shift", "crop", "cone")
"""Options that move or hide pixels, so that masks must follow."""


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 is off. Every draw is a function of (seed, clip index, epoch) and holds for the whole clip."""

    where: str = option("before_teacher", choices=("before_teacher", "after_teacher"), needs="is_on")
    """before_teacher (the teacher sees what the student sees), or after_teacher (masks move with the video)."""
    rotate_deg: float = option(0.0, least=0, most=180)
    """Rotation about the centre, uniform in +- this many degrees."""
    scale: float = option(0.0, least=0, below=1)
    """Zoom by a factor uniform in 1 +- this."""
    shift: float = option(0.0, least=0, most=1)
    """Shift along each axis, uniform in +- this share of the side."""
    crop: float = option(0.0, least=0, below=1)
    """Cut to a square of 1 - u of the side, u uniform in 0 .. this, anywhere in the frame, and enlarged to it."""
    gain: float = option(0.0, least=0, below=1)
    """Grey levels times a factor uniform in 1 +- this."""
    gamma: float = option(0.0, least=0, most=3)
    """Grey levels (of 0 .. 1) to the power exp(u), u uniform in +- this."""
    speckle: float = option(0.0, least=0, most=3)
    """Grey levels times 1 + this times normal noise, drawn for every pixel of every frame."""
    cone: float = option(0.0, least=0, most=1)
    """Share of clips that are seen through a sector with its apex at the middle of the upper edge."""

    @property
    def is_on(self) -> bool:
        """Whether any strength is above 0."""
        return any(getattr(self, strength.name) > 0 for strength in fields(self) if strength.name != "where")

    @property
    def moves_pixels(self) -> bool:
        """Whether masks must follow."""
        return any(getattr(self, name) > 0 for name in GEOMETRY)
