"""The terms of a student's objective as options, with their defaults. docs/reference/objectives.md has the formulas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TermConfig:
    """One term of a student's objective: ``students.<name>.objective.<term>``."""

    weight: float = 1.0
    """What the term is multiplied by; 0 leaves it out."""
    start: int = 0
    """Updates before the term counts."""
    ramp: int = 0
    """Updates over which its weight then rises in equal steps; 0 gives all of it at once."""
    confidence: str = "none"
    """bce, kl, focal: none (every pixel counts alike), entropy (each by how sure the teacher is of it), or teacher (by
    how far the members of an ensemble agree on it, with teacher.confidence)."""
    temperature: float = 2.0
    """kl: softens teacher and student."""
    gamma: float = 2.0
    """focal: how much less an easy pixel counts: 0 not at all, else at least 1 (Lin et al. 2017 found 2 best)."""
    threshold: float = 0.5
    """lovasz, boundary: probability above which a pixel belongs to the teacher's mask."""
    kind: str = "attention"
    """features: attention (where they are large), matching (their values, through a 1 x 1 adapter), or projected (their
    directions, through the same adapter)."""
    layer: str = ""
    """features: encoder.I (0 is the first block) or decoder.I (0 is the coarsest); empty takes the deepest block."""


TERM_OPTIONS: dict[str, tuple[str, ...]] = {
    "bce": ("confidence",),
    "kl": ("confidence", "temperature"),
    "focal": ("confidence", "gamma"),
    "dice": (),
    "lovasz": ("threshold",),
    "boundary": ("threshold",),
    "temporal": (),
    "features": ("kind", "layer"),
}
"""Every term, and what it has beside its weight and schedule."""

FEATURE_KINDS = {"attention": False, "matching": True, "projected": True}
"""Kinds of the term features, and whether they need an adapter, which is trained with the student."""

PLAIN_OBJECTIVE = {"bce": TermConfig()}
"""What an empty objective stands for: the authors' loss."""
