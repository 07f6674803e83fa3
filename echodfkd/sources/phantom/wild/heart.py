"""Shape of a wild heart in heart coordinates: tables over the angle for the left ventricle, ellipses for the others.

The left ventricle's border is a radius over the angle around a point on its long axis, 0 towards the apex, positive
towards the lateral wall. Its volume by 8 A^2 / (3 pi L) (Lang et al. 2015) follows the conditions in every frame.

Legend: T frames, K angles. Tables are float64 on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.wild.ranges import WildDraws
from echodfkd.sources.phantom.wild.rhythm import Rhythm

ANGLES, POINTS = 128, 33
"""Of the tables, and of each quarter of an outline."""
MIDDLE = 0.5
"""Place of the tables' centre on the long axis, in lengths from the apex."""


@dataclass(frozen=True)
class WildShape:
    """One heart: ``apex``, ``length``, ``centre`` and ``ring`` (T,) in mm, tables (T, K), and numbers of the others.

    ``apex`` and ``length`` are the places of the cavity's apex and of the annular plane, from the apex at rest;
    ``pressed`` (T,) is 1 if trabeculae are pressed into the wall.
    ``rest_length`` and ``rest_width`` are those of the filled ventricle, also if no frame shows it.
    ``endo`` and ``epi`` are the radii of both borders, ``straighten`` turns a radial into a perpendicular distance.
    """

    four_chamber: bool
    rest_length: float
    rest_width: float
    apex: torch.Tensor
    length: torch.Tensor
    centre: torch.Tensor
    half_width: torch.Tensor
    ring: torch.Tensor
    endo: torch.Tensor
    epi: torch.Tensor
    straighten: torch.Tensor
    bend: float
    apex_shift: float
    slope: float
    face: torch.Tensor
    ejected: torch.Tensor
    pressed: torch.Tensor
    rv_width: float
    rv_reach: float
    tricuspid: float
    la_width: float
    la_floor: float
    la_shift: float
    ra_width: float
    ra_floor: float


def angles() -> torch.Tensor:
    """Angles of the tables (K,), -pi to pi."""
    return (torch.arange(ANGLES, dtype=torch.float64) + 0.5) * (2.0 * math.pi / ANGLES) - math.pi


def window(theta: torch.Tensor, place: float, width: float) -> torch.Tensor:
    """A bump of height 1 over the angle, periodic (rad)."""
    away = torch.remainder(theta - place + math.pi, 2.0 * math.pi) - math.pi
    return torch.exp(-0.5 * (away / width) ** 2)


def ripples(draw: WildDraws, name: str, theta: torch.Tensor, first: int = 1, last: int = 5) -> torch.Tensor:
    """A smooth random function of the angle (K,), periodic, of about unit deviation."""
    total = torch.zeros_like(theta)
    for order in range(first, last + 1):
        turn = draw.between(f"{name} turn {order}", 0.0, 2.0 * math.pi)
        total += draw.between(f"{name} size {order}", -1.0, 1.0) * torch.cos(order * theta + turn)
    return total / math.sqrt((last - first + 1) / 6.0)


def draw_shape(conditions: Conditions, rhythm: Rhythm, draw: WildDraws) -> WildShape:
    """A heart with these conditions over the frames of this rhythm."""
    assert conditions.edv_ml is not None
    assert conditions.ef_percent is not None
    theta = angles()
    size = (conditions.edv_ml / 91.0) ** (1.0 / 3.0)
    rest = 79.0 * size * draw("roundness") ** (-2.0 / 3.0)
    ejected = conditions.ef_percent / 100.0 * rhythm.ejected
    shorter = rest * draw("shortening") * ejected
    length, apex = rest - shorter, draw("apex_motion") * shorter
    outline = _Outline(draw, theta)
    half_width, radius = _fit(
        outline,
        volume_ml=_with_rest(conditions.edv_ml, rhythm.volume_ml),
        length=_with_rest(rest, length),
        narrow=_with_rest(0.0, draw("apical_narrowing") * ejected),
        kinesis=_kinesis(draw, theta),
    )
    wall = _wall(draw, theta, size)
    centre = apex + MIDDLE * length
    epi = _outer_border(radius, wall, centre - MIDDLE * rest, theta)
    steep = (torch.roll(radius, -1, 1) - torch.roll(radius, 1, 1)) * (ANGLES / (4.0 * math.pi)) / radius
    at_septum = int(ANGLES / 4)
    return WildShape(
        four_chamber=conditions.view != "A2C",
        rest_length=rest,
        rest_width=float(half_width[0]),
        apex=apex,
        length=apex + length,
        centre=centre,
        half_width=half_width[1:],
        ring=outline.annulus * half_width[1:],
        endo=radius[1:],
        epi=epi,
        straighten=torch.rsqrt(1.0 + steep[1:] ** 2),
        bend=draw("bend"),
        apex_shift=draw("apex_shift"),
        slope=outline.slope,
        face=epi[:, at_septum],
        ejected=rhythm.ejected,
        pressed=(ejected / 0.6).clamp(max=1.0),
        rv_width=draw("rv_width") * size**0.5,
        rv_reach=draw("rv_reach"),
        tricuspid=draw("tricuspid"),
        la_width=draw("la_width") * size**0.5,
        la_floor=rest + draw("la_depth") * size**0.5,
        la_shift=draw("atrial_shift"),
        ra_width=draw("ra_width") * size**0.3,
        ra_floor=rest + draw("ra_depth") * size**0.5,
    )


class _Outline:
    """The ventricle's outline as a function of half width and length: a bullet, widest between its middle and base."""

    def __init__(self, draw: WildDraws, theta: torch.Tensor) -> None:
        self.theta, self.sin, self.cos = theta, torch.sin(theta), torch.cos(theta)
        widest, self.annulus, self.slope = draw("widest"), draw("annulus"), draw("slope")
        quarter = torch.linspace(0.0, math.pi / 2.0, POINTS, dtype=torch.float64)
        apex, base = draw("blunt_apex"), draw("blunt_base")
        below = (1.0 - widest) / (1.0 - self.annulus**base) ** (1.0 / base)
        self._level = torch.cat(
            [widest * (1.0 - quarter.cos() ** (2.0 / apex)), widest + below * quarter.sin()[1:] ** (2.0 / base)]
        )
        self._across = torch.cat([quarter.sin() ** (2.0 / apex), quarter.cos()[1:].clamp(min=0.0) ** (2.0 / base)])
        self._skew = draw("skew")
        factor = 1.0 + draw("ripple") * ripples(draw, "outline", theta, 2, 5)
        factor = factor - draw("septal_bulge") * window(theta, -2.1, 0.35)
        if draw.chance("aneurysm"):
            place = draw.between("aneurysm place", -0.9, 1.9)
            factor = factor + draw("aneurysm_size") * window(theta, place, 0.4)
        self._factor = factor

    def radius(self, half_width: torch.Tensor, length: torch.Tensor, narrow: torch.Tensor) -> torch.Tensor:
        """Radii (T, K) around `MIDDLE` of the long axis; ``narrow`` (T,) is the loss of width at the apex."""
        along = (MIDDLE - self._level) * length[:, None]
        across = self._across * half_width[:, None] * (1.0 - narrow[:, None] * (1.0 - self._level).clamp(min=0.0))
        half = len(self.theta) // 2
        sides = []
        for side, angle in ((1.0 - self._skew, -self.theta[:half].flip(0)), (1.0 + self._skew, self.theta[half:])):
            sides.append(_read(angle, torch.atan2(side * across, along), torch.hypot(side * across, along)))
        return torch.cat([sides[0].flip(1), sides[1]], dim=1) * self._factor

    def area(self, radius: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Area above the annular plane (T,)."""
        towards = -self.cos - self.slope * self.sin
        plane = ((1.0 - MIDDLE) * length)[:, None] / towards.clamp(min=1e-6)
        return torch.minimum(radius, plane).square().sum(1) * (math.pi / ANGLES)


def _read(at: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values (T, N) at ``at`` (N,), between those at the rising ``places`` (T, M)."""
    at = at.expand(len(places), -1).contiguous()
    after = torch.searchsorted(places.contiguous(), at).clamp(1, places.shape[1] - 1)
    low, high = places.gather(1, after - 1), places.gather(1, after)
    share = ((at - low) / (high - low).clamp(min=1e-9)).clamp(0.0, 1.0)
    return torch.lerp(values.gather(1, after - 1), values.gather(1, after), share)


def _fit(
    outline: _Outline, *, volume_ml: torch.Tensor, length: torch.Tensor, narrow: torch.Tensor, kinesis: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half widths (T,) and radii (T, K) that give the volumes; the first frame is the one at rest."""
    target = torch.sqrt(3.0 * math.pi * 1000.0 * volume_ml * length / 8.0)
    half_width = 0.28 * length
    for _ in range(4):
        free = outline.radius(half_width, length, narrow)
        radius = (free[:1] + (free - free[:1]) * kinesis).clamp(min=2.0)
        half_width = half_width * (target / outline.area(radius, length)).clamp(0.6, 1.6)
    return half_width, radius


def _with_rest(rest: float, values: torch.Tensor) -> torch.Tensor:
    """The value of the filled ventricle before those of the frames (T + 1,)."""
    return torch.cat([values.new_tensor([rest]), values])


def _wall(draw: WildDraws, theta: torch.Tensor, size: float) -> torch.Tensor:
    """Thickness of the wall around the filled ventricle (K,); ``size`` is its length scale, 1 for 91 mL."""
    wall = draw("wall") * size**-0.4  # dilated ventricles have thin walls
    wall = wall * (1.0 + draw("wall_ripple") * ripples(draw, "wall", theta, 1, 3)).clamp(0.4, 2.0)
    wall = wall * (1.0 + (draw("apical_wall") - 1.0) * window(theta, 0.4, 0.6))
    wall = wall * (1.0 + (draw("lateral_wall") - 1.0) * window(theta, 1.5, 0.7))
    wall = wall * (1.0 + (draw("septal_wall") - 1.0) * window(theta, -1.5, 0.7))
    if draw.chance("hypertrophy"):
        wall = wall * draw.between("hypertrophy", 1.3, 2.0)
    return wall.clamp(3.0, 22.0)


def _outer_border(radius: torch.Tensor, wall: torch.Tensor, moved: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Radii (T, K) of the outer border, whose centre has ``moved`` (T,); the first of the radii are those at rest.

    The wall keeps its cross-section at each angle, so that it thickens as the cavity shrinks. Towards the apex the
    outer border stays, while the inner one descends.
    """
    section = (radius[0] + wall) ** 2 - radius[0] ** 2
    epi = torch.sqrt(radius**2 + section)[1:]
    towards = theta.cos()
    still = radius[0] + wall + moved[:, None] * towards
    return torch.lerp(epi, still.maximum(radius[1:] + 2.0), towards.clamp(min=0.0))


def _kinesis(draw: WildDraws, theta: torch.Tensor) -> torch.Tensor:
    """Motion of each angle's wall (K,): 1 is normal, 0 none, below 0 outwards in systole."""
    kinesis = (1.0 + 0.12 * ripples(draw, "kinesis", theta, 1, 3)).clamp(0.6, 1.4)
    if draw.chance("akinesia"):
        place = draw.between("akinesia place", -2.0, 2.0)
        loss = window(theta, place, draw.between("akinesia width", 0.3, 0.8)) * (1.0 - draw("kinesis"))
        kinesis = kinesis * (1.0 - loss)
    return kinesis
