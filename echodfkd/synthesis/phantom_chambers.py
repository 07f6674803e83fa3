"""The phantom's chambers, walls and valves, painted as echo levels in the heart's axes.

Every structure has a level (dB below the brightest echo) and is painted over what lies behind it, with an edge
one pixel wide. Proportions are chosen by eye after normal apical four-chamber views.

Legend: T frames, H rows, W columns. Lengths in mm, levels in dB.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from echodfkd.synthesis.phantom_anatomy import Anatomy, Motion

_F = np.float32


@dataclass(frozen=True)
class Echo:
    """How bright tissue and blood are, in dB, and where a wall is lost.

    ``dropout`` is what a segment of one wall loses (negative values lose nothing); ``dropout_level`` is where it
    lies along the ventricle, 0 at the apex and 1 at the annulus.
    """

    myocardium: float
    blood: float
    haze: float
    dropout: float
    dropout_level: float
    dropout_lateral: bool


def column(values_T: np.ndarray | float) -> np.ndarray:
    """One value per frame as float32 (T, 1, 1)."""
    return np.atleast_1d(np.asarray(values_T, _F))[:, None, None]


def ellipse(x: np.ndarray, y: np.ndarray, a: np.ndarray | np.float32, b: np.ndarray | np.float32) -> np.ndarray:
    """First-order distance to an axis-parallel ellipse, (r - 1) / |grad r| with r the scaled radius; < 0 inside."""
    p, q = x / a, y / b
    radius = np.sqrt(p * p + q * q)
    p /= a
    q /= b
    slope = np.sqrt(p * p + q * q)
    return (radius - 1.0) * radius / np.maximum(slope, _F(1e-6))


@dataclass
class Heart:
    """Pixel centres of a clip in the heart's axes, (T, H, W), and the left ventricle in them."""

    u: np.ndarray
    v: np.ndarray
    anatomy: Anatomy
    motion: Motion
    pixel: float
    length: np.ndarray = field(init=False)
    half_width: np.ndarray = field(init=False)
    lv_distance: np.ndarray = field(init=False)
    """First-order distance to the cavity's border, negative inside; not yet cut off at the annulus."""

    def __post_init__(self) -> None:
        anatomy, motion = self.anatomy, self.motion
        self.length, self.half_width = column(motion.length), column(motion.half_width)
        along = np.clip(self.v / self.length, 0.0, 1.0)
        straight = self.u - _F(4.0 * anatomy.bend) * self.length * along * (1.0 - along)
        below = self.v - _F(anatomy.widest) * self.length
        semi = np.where(below < 0, _F(anatomy.widest), _F(anatomy.lower)) * self.length
        self.lv_distance = ellipse(straight, below, self.half_width, semi)

    @property
    def lv_mask(self) -> np.ndarray:
        """The left ventricle's cavity, bool (T, H, W): pixels whose centre lies in it, papillary muscle included."""
        return (self.lv_distance < 0) & (self.v < self.length)


class Canvas:
    """Echo level (dB) and share of solid tissue (0..1) of each pixel, painted from the back to the front."""

    def __init__(self, heart: Heart, echo: Echo) -> None:
        self.heart = heart
        self.echo = echo
        self.level = np.full(heart.u.shape, echo.haze, _F)
        self.solid = np.full(heart.u.shape, 0.7, _F)
        self._per_mm = _F(1.0 / heart.pixel)
        thickening, septal = column(heart.motion.thickening), _F(heart.anatomy.wall_septal)
        self._septal = septal * thickening
        self._face = heart.half_width + self._septal  # right-ventricular face of the septum at the widest level
        self._hinge = heart.length - _F(heart.anatomy.tricuspid_shift)
        self._rv_width = _F(heart.anatomy.rv_width) * column(1.0 - 0.22 * heart.motion.ejected)

    def paint_all(self) -> None:
        """Paint the whole heart."""
        self._right_heart()
        self._left_atrium()
        self._left_ventricle()
        self._valves()

    def _inside(self, distance: np.ndarray) -> np.ndarray:
        return np.clip(_F(0.5) - distance * self._per_mm, 0.0, 1.0)

    def _paint(self, cover: np.ndarray, level: float, solid: float) -> None:
        self.level += cover * (_F(level) - self.level)
        self.solid += cover * (_F(solid) - self.solid)

    def _right_heart(self) -> None:
        heart, anatomy, wall, blood = self.heart, self.heart.anatomy, self.echo.myocardium, self.echo.blood
        across = heart.u + self._face * _F(0.95)
        ventricle = ellipse(
            across, heart.v - _F(0.82) * heart.length, self._rv_width, _F(anatomy.rv_reach) * heart.length
        )
        above = self._inside(heart.v - self._hinge)
        self._paint(self._inside(ventricle - 4.0) * above, wall - 2.0, 1.0)
        self._paint(self._inside(ventricle) * above, blood, 0.0)
        floor = _F(anatomy.length + anatomy.ra_depth)  # the floor of the atria stays, the annulus moves
        semi = (floor - self._hinge) * _F(0.52)
        atrium = ellipse(across + self._rv_width * _F(0.42), heart.v - floor + semi, _F(anatomy.ra_width), semi)
        below = self._inside(self._hinge - heart.v)
        self._paint(self._inside(atrium - 2.5) * below, wall + 1.0, 1.0)
        self._paint(self._inside(atrium) * below, blood, 0.0)

    def _left_atrium(self) -> None:
        heart, anatomy = self.heart, self.heart.anatomy
        floor = _F(anatomy.length + anatomy.la_depth)
        semi = (floor - heart.length) * _F(0.52)
        atrium = ellipse(heart.u - _F(anatomy.la_shift), heart.v - floor + semi, _F(anatomy.la_width), semi)
        below = self._inside(heart.length - heart.v)
        self._paint(self._inside(atrium - 2.5) * below, self.echo.myocardium + 2.0, 1.0)
        self._paint(self._inside(atrium) * below, self.echo.blood, 0.0)

    def _left_ventricle(self) -> None:
        heart, anatomy, echo = self.heart, self.heart.anatomy, self.echo
        thickening = column(heart.motion.thickening)
        side = np.clip(_F(0.5) + heart.u / (heart.half_width * 2.0), 0.0, 1.0)  # 0 septal, 1 lateral
        apical = np.clip(_F(0.65) + heart.v * _F(1.2 / anatomy.length), 0.0, 1.0)  # the apex is thinner
        thick = (self._septal + (_F(anatomy.wall_lateral) * thickening - self._septal) * side) * apical
        above = self._inside(heart.v - heart.length - 2.0)
        outer = self._inside(heart.lv_distance - thick - 2.5) * above
        self._paint(outer * (side > 0.5), echo.myocardium + 7.0, 1.0)  # pericardium
        self._paint(self._inside(heart.lv_distance - thick) * above, echo.myocardium, 1.0)
        if echo.dropout > 0.0:
            segment = np.exp(-(((heart.v / heart.length - _F(echo.dropout_level)) * _F(1.0 / 0.18)) ** 2))
            share = side if echo.dropout_lateral else 1.0 - side
            self.level -= segment * outer * share * _F(echo.dropout)
        cavity = self._inside(heart.lv_distance)
        self._paint(cavity * self._inside(heart.v - heart.length), echo.blood, 0.0)
        reach = _F(anatomy.papillary) * thickening
        muscle = ellipse(heart.u - heart.half_width * 0.8, heart.v - heart.length * 0.52, reach, _F(8.0) * thickening)
        self._paint(self._inside(muscle) * cavity * _F(0.7), echo.myocardium - 4.0, 1.0)

    def _valves(self) -> None:
        """Mitral and tricuspid leaflets: segments that swing from the annulus plane towards the apex."""
        heart, anatomy, motion = self.heart, self.heart.anatomy, self.heart.motion
        angle = column(np.radians(9.0 + 62.0 * motion.mitral_open))
        cos, sin = np.cos(angle), np.sin(angle)
        thin = max(0.9, 0.35 * heart.pixel)
        ring = _F(anatomy.annulus) * heart.half_width
        for sign in (_F(-1.0), _F(1.0)):
            leaflet = self._segment(sign * ring, heart.length, -sign * ring * cos, -ring * sin)
            self._paint(self._inside(leaflet - thin) * _F(0.85), self.echo.myocardium + 6.0, 0.6)
        septal, free = -self._face * _F(0.92), -self._face * _F(0.92) - _F(0.85 * anatomy.rv_width)
        reach = _F(0.43 * anatomy.rv_width)
        for start, sign in ((septal, _F(-1.0)), (free, _F(1.0))):
            leaflet = self._segment(start, self._hinge, sign * reach * cos, -reach * sin)
            self._paint(self._inside(leaflet - thin) * _F(0.7), self.echo.myocardium + 3.0, 0.6)

    def _segment(self, u0: np.ndarray, v0: np.ndarray, du: np.ndarray, dv: np.ndarray) -> np.ndarray:
        """Distance in mm to the segment from (u0, v0) along (du, dv), one segment per frame."""
        p, q = self.heart.u - u0, self.heart.v - v0
        along = np.clip((p * du + q * dv) / (du * du + dv * dv), 0.0, 1.0)
        p -= along * du
        q -= along * dv
        return np.sqrt(p * p + q * q)
