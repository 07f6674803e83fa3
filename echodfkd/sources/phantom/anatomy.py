"""Anatomy and motion of the phantom: hearts with given conditions, in millimetres and seconds.

Heart coordinates: ``v`` runs from the apex of the left ventricle (0) down the long axis to the mitral annulus
(`Motion.length`), ``u`` across it, positive towards the lateral (A4C) or anterior (A2C) wall. The left ventricle is
two half ellipses that meet at its widest level and is cut off at the annulus. Its half width and length follow from
the volume by the single-plane area-length rule V = 8 A^2 / (3 pi L), as given in the chamber quantification guideline
of Lang et al. (2015). Its wall is a larger copy of the same shape: the solid of revolution between the two keeps
its volume over the beat (`wall_thickness`).

Legend: N clips, T frames. All tensors here are float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.draws import Draws

APICAL_WALL = 0.7
"""Thickness of the wall at the apex, as a share of the mean of both sides."""


@dataclass(frozen=True)
class Anatomy:
    """Constants of a clip, each (N,): mm at end-diastole, rad, or fractions without unit.

    ``four_chamber`` is 1 in A4C and 0 in A2C. ``asymmetry`` is the excess of the septal over the mean wall.
    """

    four_chamber: torch.Tensor
    length: torch.Tensor
    half_width: torch.Tensor
    widest: torch.Tensor
    annulus: torch.Tensor
    bend: torch.Tensor
    base_slope: torch.Tensor
    wall: torch.Tensor
    asymmetry: torch.Tensor
    rv_width: torch.Tensor
    rv_reach: torch.Tensor
    tricuspid_shift: torch.Tensor
    la_width: torch.Tensor
    la_depth: torch.Tensor
    la_shift: torch.Tensor
    ra_width: torch.Tensor
    ra_depth: torch.Tensor
    papillary: torch.Tensor
    papillary_level: torch.Tensor
    leaflet: torch.Tensor
    leaflet_bow: torch.Tensor
    torsion: torch.Tensor

    @property
    def lower(self) -> torch.Tensor:
        """Lower semi-axis in ventricle lengths, such that the annulus has its share of the width."""
        return (1.0 - self.widest) / torch.sqrt(1.0 - self.annulus**2)

    @property
    def area_coefficient(self) -> torch.Tensor:
        """Area of the ventricle divided by half width x length (closed form of both half ellipses)."""
        k = torch.sqrt(1.0 - self.annulus**2)
        return 2.0 * (self.widest * math.pi / 4.0 + self.lower / 2.0 * (k * self.annulus + torch.asin(k)))


@dataclass(frozen=True)
class Timing:
    """Events of a beat as shares of it (N,), counted from end-diastole (mitral closure).

    Isovolumic contraction ends at ``ejection_start``, ejection at ``end_systole``, isovolumic relaxation at
    ``filling_start``, rapid filling at ``filling_end``; the atrial kick lasts from ``kick_start`` to 1.
    ``early_share`` is the share of the stroke volume that returns in rapid filling.
    """

    ejection_start: torch.Tensor
    end_systole: torch.Tensor
    filling_start: torch.Tensor
    filling_end: torch.Tensor
    kick_start: torch.Tensor
    early_share: torch.Tensor


@dataclass(frozen=True)
class Motion:
    """Quantities that change over a clip, each (N, T): mL, mm, rad, or fractions 0..1.

    ``phase`` counts beats since an end-diastole; ``ejected`` is the share of the stroke volume that is ejected.
    """

    phase: torch.Tensor
    ejected: torch.Tensor
    volume: torch.Tensor
    length: torch.Tensor
    half_width: torch.Tensor
    wall: torch.Tensor
    mitral_open: torch.Tensor
    aortic_open: torch.Tensor
    twist: torch.Tensor


def condition(patients: Sequence[Conditions], name: str) -> torch.Tensor:
    """One condition of all patients (N,); it must be known."""
    values = [getattr(patient, name) for patient in patients]
    assert all(value is not None for value in values), f"the phantom needs conditions.{name}"
    return torch.tensor(values, dtype=torch.float64)


def draw_anatomy(patients: Sequence[Conditions], draws: Draws) -> Anatomy:
    """Draw hearts with these conditions.

    Proportions are chosen by eye from normal apical views; walls thicken with age, atria grow with age and with reduced
    ejection fraction, and failing ventricles are rounder.
    """
    ef, age = condition(patients, "ef_percent"), condition(patients, "age_years")
    edv = condition(patients, "edv_ml")
    size = (edv / 91.0) ** (1.0 / 3.0)
    old, failing = ((age - 60.0) / 20.0).clamp(-1.5, 1.5), ((55.0 - ef) / 40.0).clamp(0.0, 1.0)
    between = draws.uniform
    length = 79.0 * size * between("length", 0.94, 1.07) * (1.0 - 0.06 * failing)
    widest, annulus = between("widest", 0.54, 0.66), between("annulus", 0.66, 0.84)
    shape = torch.ones_like(size)
    anatomy = Anatomy(
        four_chamber=torch.tensor([float(patient.view != "A2C") for patient in patients], dtype=torch.float64),
        length=length,
        half_width=shape,
        widest=widest,
        annulus=annulus,
        bend=between("bend", -0.03, 0.03),
        base_slope=between("base_slope", -0.16, 0.10),
        wall=between("wall", 7.0, 10.5) * size**0.4 * (1.0 + 0.07 * old),
        asymmetry=between("asymmetry", -0.10, 0.18),
        rv_width=between("rv_width", 20.0, 31.0) * size**0.5,
        rv_reach=between("rv_reach", 0.55, 0.74),
        tricuspid_shift=between("tricuspid_shift", 3.0, 9.0),
        la_width=between("la_width", 16.5, 21.0) * size**0.5 * (1.0 + 0.06 * old + 0.12 * failing),
        la_depth=between("la_depth", 36.0, 50.0) * size**0.5 * (1.0 + 0.06 * old + 0.10 * failing),
        la_shift=between("la_shift", -3.0, 3.0),
        ra_width=between("ra_width", 16.0, 22.0) * size**0.3,
        ra_depth=between("ra_depth", 32.0, 46.0) * size**0.5,
        papillary=between("papillary", 1.2, 4.2),
        papillary_level=between("papillary_level", 0.46, 0.60),
        leaflet=between("leaflet", 1.02, 1.18),
        leaflet_bow=between("leaflet_bow", -0.20, 0.05),
        torsion=torch.deg2rad(between("torsion", 8.0, 16.0)) * ef / 60.0,
    )
    return replace(anatomy, half_width=_half_width(anatomy, edv, length))


def _half_width(anatomy: Anatomy, volume_ml: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Half width in mm at which area and length give the volume by 8 A^2 / (3 pi L)."""
    coefficient = anatomy.area_coefficient
    if length.dim() == 2:
        coefficient = coefficient[:, None]
    return torch.sqrt(3.0 * math.pi * 1000.0 * volume_ml * length / 8.0) / (coefficient * length)


def draw_timing(heart_rate_bpm: torch.Tensor, draws: Draws) -> Timing:
    """Timing of a beat at this heart rate.

    Ejection lasts 413 - 1.7 x rate ms (Weissler et al., 1968, men), both isovolumic phases and the filling waves
    have usual resting lengths; as the rate rises, diastasis vanishes first, then all phases shrink together.
    """
    beat = 60.0 / heart_rate_bpm
    contraction = draws.uniform("ivc_s", 0.040, 0.060)
    ejection = (0.413 - 0.0017 * heart_rate_bpm).clamp(min=0.16) + draws.uniform("ejection_s", -0.015, 0.015)
    relaxation = draws.uniform("ivr_s", 0.065, 0.095)
    systole = contraction + ejection + relaxation
    shrink = torch.minimum(torch.ones_like(beat), 0.62 * beat / systole)
    contraction, ejection, relaxation = contraction * shrink, ejection * shrink, relaxation * shrink
    diastole = beat - contraction - ejection - relaxation
    rapid = torch.minimum(draws.uniform("rapid_s", 0.14, 0.20), 0.55 * diastole)
    kick = torch.minimum(draws.uniform("kick_s", 0.09, 0.13), 0.40 * diastole)
    return Timing(
        ejection_start=contraction / beat,
        end_systole=(contraction + ejection) / beat,
        filling_start=(contraction + ejection + relaxation) / beat,
        filling_end=(contraction + ejection + relaxation + rapid) / beat,
        kick_start=1.0 - kick / beat,
        early_share=draws.uniform("early_share", 0.52, 0.80),
    )


def ejected_fraction(phase: torch.Tensor, timing: Timing) -> torch.Tensor:
    """Ejected share of the stroke volume, (N, T): 0 at end-diastole, 1 at end-systole.

    Constant in both isovolumic phases, a smooth rise in ejection, then rapid filling, diastasis (2 % of the stroke
    volume), atrial kick. Continuous.
    """
    turn = torch.remainder(phase, 1.0)

    def between(start: torch.Tensor, stop: torch.Tensor | float) -> torch.Tensor:
        return (turn - start[:, None]) / ((stop[:, None] if isinstance(stop, torch.Tensor) else stop) - start[:, None])

    early = timing.early_share[:, None]
    fall = _smooth(between(timing.ejection_start, timing.end_systole))
    rapid = (early - 0.02) * _smooth(between(timing.filling_start, timing.filling_end))
    slow = 0.02 * _smooth(between(timing.filling_start, timing.kick_start))
    kick = (1.0 - early) * _smooth(between(timing.kick_start, 1.0))
    return fall - rapid - slow - kick


def wall_thickness(anatomy: Anatomy, length: torch.Tensor, half_width: torch.Tensor) -> torch.Tensor:
    """Mean wall thickness in mm (N, T) at which the volume of the myocardium is constant.

    The outer shape has half widths a + h (1 + d) and a + h (1 - d) on its two sides (d the asymmetry) and length
    L + `APICAL_WALL` h; both halves are solids of revolution about the long axis. Newton's method on the
    cubic in h.
    """
    d2 = anatomy.asymmetry[:, None] ** 2

    def shell(h: torch.Tensor, a: torch.Tensor, long: torch.Tensor) -> torch.Tensor:
        return ((a + h) ** 2 + d2 * h**2) * (long + APICAL_WALL * h) - a**2 * long

    target = shell(anatomy.wall[:, None], anatomy.half_width[:, None], anatomy.length[:, None])
    h = anatomy.wall[:, None].expand_as(length)
    for _ in range(6):
        slope = (2.0 * (half_width + h) + 2.0 * d2 * h) * (length + APICAL_WALL * h)
        slope = slope + ((half_width + h) ** 2 + d2 * h**2) * APICAL_WALL
        h = (h - (shell(h, half_width, length) - target) / slope).clamp(min=0.5)
    return h


def move(
    anatomy: Anatomy, timing: Timing, patients: Sequence[Conditions], draws: Draws, *, phase: torch.Tensor
) -> Motion:
    """Motion of hearts at these phases (N, T)."""
    ef, edv = condition(patients, "ef_percent")[:, None], condition(patients, "edv_ml")[:, None]
    esv = condition(patients, "esv_ml")[:, None]
    ejected = ejected_fraction(phase, timing)
    volume = edv - (edv - esv) * ejected
    shortening = 0.33 * ef / 100.0 * draws.uniform("shortening", 0.8, 1.15)[:, None]
    length = anatomy.length[:, None] * (1.0 - shortening * ejected)
    half_width = _half_width(anatomy, volume, length)
    turn = torch.remainder(phase, 1.0)
    step = 0.008  # of a beat, for the slope of the filling curve
    inflow = (ejected_fraction(phase - step, timing) - ejected_fraction(phase + step, timing)) / (2.0 * step)
    filling = ((turn > timing.filling_start[:, None]) & (turn < 1.0 - step)).to(torch.float64)
    ejecting = (turn > timing.ejection_start[:, None]) & (turn < timing.end_systole[:, None])
    return Motion(
        phase=phase,
        ejected=ejected,
        volume=volume,
        length=length,
        half_width=half_width,
        wall=wall_thickness(anatomy, length, half_width),
        mitral_open=filling * torch.sqrt((0.05 + inflow / 3.0).clamp(0.0, 1.0)),
        aortic_open=ejecting.to(torch.float64),
        twist=anatomy.torsion[:, None] * ejected,
    )


def _smooth(x: torch.Tensor) -> torch.Tensor:
    """Half a cosine from 0 (x <= 0) to 1 (x >= 1)."""
    return 0.5 - 0.5 * torch.cos(math.pi * x.clamp(0.0, 1.0))
