"""Options of `students.NAME.objective`: the terms of a loss (formulas: docs/reference/objectives.md)."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import MOST_STEPS, MOST_WEIGHT, option

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
"""Every term, and its options beside weight and schedule."""

FEATURE_KINDS = {"attention": False, "matching": True, "projected": True}
"""Kinds of the term features, and whether they need an adapter, which is trained with the student."""


@dataclass(frozen=True)
class TermConfig:
    """One term of a student's objective: ``students.<name>.objective.<term>``."""

    weight: float = option(1.0, least=0, ceiling=MOST_WEIGHT)
    """Factor of the term; 0 leaves it out."""
    start: int = option(0, least=0, ceiling=MOST_STEPS)
    """Updates before the term counts."""
    ramp: int = option(0, least=0, ceiling=MOST_STEPS)
    """Updates over which its weight then rises in equal steps; 0 gives all of it at once."""
    confidence: str = option("none", choices=("none", "entropy", "teacher"))
    """bce, kl, focal: none (every pixel counts alike), entropy (each by how sure the teacher is of it), or teacher (by
    how far the members of an ensemble agree on it, with teacher.confidence)."""
    temperature: float = option(2.0, least=0.01, ceiling=100)
    """kl: softens teacher and student."""
    gamma: float = option(2.0, least=0, ceiling=100)
    """focal: how much less an easy pixel counts: 0 not at all, else at least 1 (Lin et al. 2017 found 2 best)."""
    threshold: float = option(0.5, least=0, below=1)
    """lovasz, boundary: probability above which a pixel belongs to the teacher's mask."""
    kind: str = option("attention", choices=tuple(FEATURE_KINDS))
    """features: attention (the places of large values), matching (the values, through a 1 x 1 adapter), or projected
    (their directions, through the same adapter)."""
    layer: str = ""
    """features: encoder.I (0 is the first block) or decoder.I (0 is the coarsest); empty takes the deepest block."""


PLAIN_OBJECTIVE = {"bce": TermConfig()}
"""The authors' loss, which an empty objective stands for."""
