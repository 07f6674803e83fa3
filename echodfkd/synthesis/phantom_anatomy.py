"""Anatomy and motion of the embedded phantom: a heart drawn from conditions, in millimetres.

The heart's own axes: ``v`` runs from the apex of the left ventricle (0) down the long axis to the mitral
annulus (`Motion.length`), ``u`` across it, positive towards the lateral wall. The left ventricle is two half
ellipses that meet at its widest level and is cut off at the annulus. Its half width and length follow from the
volume by the single-plane area-length rule V = 8 A^2 / (3 pi L), as given in the chamber quantification
guideline of Lang et al. (2015), so that the volumes of the shape are the volumes asked for.

Legend: T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from echodfkd.records import Conditions


@dataclass(frozen=True)
class Anatomy:
    """What stays the same over a clip; lengths in mm at end-diastole, angles in rad, fractions without unit."""

    length: float
    shortening: float
    widest: float
    annulus: float
    bend: float
    wall_septal: float
    wall_lateral: float
    rv_width: float
    rv_reach: float
    tricuspid_shift: float
    la_width: float
    la_depth: float
    la_shift: float
    ra_width: float
    ra_depth: float
    systole: float
    early_share: float
    papillary: float

    @property
    def lower(self) -> float:
        """Lower semi-axis of the left ventricle in lengths, such that the annulus has its share of the width."""
        return (1.0 - self.widest) / math.sqrt(1.0 - self.annulus**2)

    @property
    def area_coefficient(self) -> float:
        """Area of the left ventricle divided by half width x length (closed form of both half ellipses)."""
        k = math.sqrt(1.0 - self.annulus**2)
        return 2.0 * (self.widest * math.pi / 4.0 + self.lower / 2.0 * (k * self.annulus + math.asin(k)))


@dataclass(frozen=True)
class Motion:
    """What moves, one float64 entry per frame (T,): mL, mm, or fractions 0..1.

    ``phase`` counts beats since an end-diastole; ``ejected`` is the share of the stroke volume that has left.
    """

    phase: np.ndarray
    ejected: np.ndarray
    volume: np.ndarray
    length: np.ndarray
    half_width: np.ndarray
    thickening: np.ndarray
    mitral_open: np.ndarray


def draw_anatomy(conditions: Conditions, rng: np.random.Generator) -> Anatomy:
    """Draw a heart that has these conditions.

    Args:
        conditions: ejection fraction, end-diastolic volume and heart rate must be known.
        rng: the clip's own generator.
    """
    assert conditions.edv_ml is not None
    assert conditions.ef_percent is not None
    assert conditions.heart_rate_bpm is not None
    size = (conditions.edv_ml / 91.0) ** (1.0 / 3.0)
    length = 79.0 * size * rng.uniform(0.93, 1.07)
    systole_s = 0.435 - 0.0017 * conditions.heart_rate_bpm + rng.uniform(-0.015, 0.015)
    return Anatomy(
        length=length,
        shortening=0.33 * conditions.ef_percent / 100.0 * rng.uniform(0.8, 1.15),
        widest=rng.uniform(0.54, 0.68),
        annulus=rng.uniform(0.70, 0.88),
        bend=rng.uniform(-0.03, 0.03),
        wall_septal=rng.uniform(7.5, 12.0) * size**0.5,
        wall_lateral=rng.uniform(7.0, 11.0) * size**0.5,
        rv_width=rng.uniform(19.0, 32.0) * size**0.5,
        rv_reach=rng.uniform(0.55, 0.75),
        tricuspid_shift=rng.uniform(3.0, 9.0),
        la_width=rng.uniform(17.0, 25.0) * size**0.5,
        la_depth=rng.uniform(36.0, 54.0) * size**0.5,
        la_shift=rng.uniform(-4.0, 4.0),
        ra_width=rng.uniform(16.0, 24.0),
        ra_depth=rng.uniform(32.0, 48.0) * size**0.5,
        systole=systole_s * conditions.heart_rate_bpm / 60.0,
        early_share=rng.uniform(0.55, 0.8),
        papillary=rng.uniform(0.3, 3.6),
    )


def ejected_fraction(phase: np.ndarray, *, systole: float, early_share: float) -> np.ndarray:
    """Share of the stroke volume outside the ventricle at each phase of the beat, 0 at ED and 1 at ES.

    A falling volume in systole, a slow drift in relaxation, rapid filling of ``early_share``, diastasis, and the
    atrial kick just before the next end-diastole. Continuous, one maximum per beat, at ``systole``.

    Args:
        phase: beats since an end-diastole, any float array.
        systole: share of the beat between end-diastole and end-systole, 0..1.
        early_share: share of the stroke volume that returns in rapid filling, 0..1.
    """
    turn = np.mod(phase, 1.0)
    rest = 1.0 - systole
    fall = _smooth(turn / systole)
    drift = 0.02 * np.clip((turn - systole) / rest, 0.0, 1.0)
    early = (early_share - 0.02) * _smooth((turn - systole - 0.1 * rest) / (0.38 * rest))
    kick = (1.0 - early_share) * _smooth((turn - systole - 0.74 * rest) / (0.26 * rest))
    return np.where(turn < systole, fall, 1.0 - drift - early - kick)


def move(anatomy: Anatomy, conditions: Conditions, *, start_phase: float, num_frames: int, fps: float) -> Motion:
    """Let a heart beat for ``num_frames`` at ``fps``, from ``start_phase`` beats after an end-diastole."""
    assert conditions.edv_ml is not None
    assert conditions.esv_ml is not None
    assert conditions.heart_rate_bpm is not None
    assert conditions.ef_percent is not None
    beats_per_frame = conditions.heart_rate_bpm / 60.0 / fps
    phase = start_phase + beats_per_frame * np.arange(num_frames)
    shape = {"systole": anatomy.systole, "early_share": anatomy.early_share}
    ejected = ejected_fraction(phase, **shape)
    volume = conditions.edv_ml - (conditions.edv_ml - conditions.esv_ml) * ejected
    length = anatomy.length * (1.0 - anatomy.shortening * ejected)
    area = np.sqrt(3.0 * math.pi * 1000.0 * volume * length / 8.0)
    step = 0.01
    inflow = (ejected_fraction(phase - step, **shape) - ejected_fraction(phase + step, **shape)) / (2.0 * step)
    return Motion(
        phase=phase,
        ejected=ejected,
        volume=volume,
        length=length,
        half_width=area / (anatomy.area_coefficient * length),
        thickening=1.0 + 0.7 * conditions.ef_percent / 100.0 * ejected,
        mitral_open=np.sqrt(np.clip(inflow / 2.5, 0.0, 1.0)),
    )


def _smooth(x: np.ndarray) -> np.ndarray:
    """Half a cosine from 0 (x <= 0) to 1 (x >= 1)."""
    return 0.5 - 0.5 * np.cos(math.pi * np.clip(x, 0.0, 1.0))
