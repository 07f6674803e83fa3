"""The phantom's chambers, walls and valves, painted as echo levels in heart coordinates, and their label map.

Every structure has a level (dB below the brightest echo) and is painted over the structures behind it, with an edge one
pixel wide. Proportions are chosen by eye from normal apical views.

Legend: N clips, T frames, H rows, W columns. Lengths in mm, levels in dB. Constants of a clip are
(N, 1, 1, 1), moving quantities (N, T, 1, 1), fields (N, T, H, W), all float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.sources.phantom.anatomy import APICAL_WALL, Anatomy, Motion

PHANTOM_CLASSES = CHAMBER_NAMES
"""Classes of the label map; papillary muscles count as cavity, as in EchoNet-Dynamic's tracings."""


@dataclass(frozen=True)
class Echo:
    """Levels of tissue and blood in dB, and the dropout of each side of the wall."""

    myocardium: torch.Tensor
    blood: torch.Tensor
    dropout: torch.Tensor
    septal_dropout: torch.Tensor
    dropout_level: torch.Tensor
    """Position of the dropout along the ventricle, 0 at the apex and 1 at the annulus."""
    patchiness: torch.Tensor
    """Standard deviation of the level between places."""
    trabeculae: torch.Tensor
    """Roughness of the cavity's border in mm."""


def ellipse_distance(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """First-order distance to an axis-parallel ellipse, (r - 1) / |grad r| with r the scaled radius; < 0 inside."""
    p, q = x / a, y / b
    radius = (p * p).addcmul_(q, q).sqrt_()
    p.div_(a)
    q.div_(b)
    slope = p.mul_(p).addcmul_(q, q).sqrt_().clamp_(min=1e-6)
    return (radius - 1.0).mul_(radius).div_(slope)


class Heart:
    """Pixel centres of clips in heart coordinates, and their signed distances from the chambers.

    Args:
        u: across the long axis, mm.
        v: along it, from the apex, mm.
        anatomy: as (N, 1, 1, 1).
        motion: as (N, T, 1, 1).
    """

    def __init__(self, u: torch.Tensor, v: torch.Tensor, anatomy: Anatomy, motion: Motion) -> None:
        self.u, self.v, self.anatomy, self.motion = u, v, anatomy, motion
        along = (v / motion.length).clamp_(0.0, 1.0)
        self.along = along
        self.straight = u - (4.0 * anatomy.bend * motion.length) * (along - along * along)
        self.lateral = u > 0.0
        self.below_base = v - motion.length - anatomy.base_slope * self.straight
        self.lv_distance = self._shell(0.0, 0.0)
        """To the cavity's border, first order, negative inside; not cut off at the annulus (`below_base`)."""
        self.epi_distance = self._shell(
            motion.wall * (1.0 + anatomy.asymmetry), motion.wall * (1.0 - anatomy.asymmetry)
        )
        self._place_right_heart()
        self._place_atria()

    def _shell(self, septal: torch.Tensor | float, lateral: torch.Tensor | float) -> torch.Tensor:
        """Distance to the ventricle's shape, thickened by a wall on each side and at the apex."""
        anatomy, motion = self.anatomy, self.motion
        a = motion.half_width
        length, top = motion.length, torch.zeros_like(motion.length)
        if isinstance(septal, torch.Tensor):
            top = APICAL_WALL * motion.wall
            length = length + top
            a = torch.lerp(a + septal, a + lateral, self.lateral.to(self.u.dtype))
        y = self.v + (top - anatomy.widest * length)
        lower = (y > 0.0).to(y.dtype)
        semi = torch.lerp(anatomy.widest * length, anatomy.lower * length, lower)
        return ellipse_distance(self.straight, y, a, semi)

    def _place_right_heart(self) -> None:
        anatomy, motion = self.anatomy, self.motion
        self.face = motion.half_width + motion.wall * (1.0 + anatomy.asymmetry)
        self.hinge = motion.length - anatomy.tricuspid_shift
        self.rv_width = anatomy.rv_width * (1.0 - 0.22 * motion.ejected)
        self.below_hinge = self.v - self.hinge + 0.12 * (self.u + self.face)
        self.rv_distance = ellipse_distance(
            self.u + 0.93 * self.face, self.v - 0.84 * motion.length, self.rv_width, anatomy.rv_reach * motion.length
        )

    def _place_atria(self) -> None:
        """Atria are ellipses cut off at the level of their valve's ring, with its width; their floors do not move."""
        anatomy, motion = self.anatomy, self.motion
        self.ring = anatomy.annulus * motion.half_width
        swell = 1.0 + 0.10 * motion.ejected
        width = anatomy.la_width * swell
        self.la_distance = self._atrium(
            anatomy.la_shift, width, self.ring, motion.length, anatomy.length + anatomy.la_depth
        )
        right = anatomy.ra_width * swell
        self.ra_centre = anatomy.la_shift - width - 3.0 - right
        self.ra_distance = self._atrium(
            self.ra_centre, right, 0.42 * self.rv_width, self.hinge, anatomy.length + anatomy.ra_depth
        )

    def _atrium(
        self, centre: torch.Tensor, width: torch.Tensor, ring: torch.Tensor, top: torch.Tensor, floor: torch.Tensor
    ) -> torch.Tensor:
        share = (ring / width).clamp(max=0.95)
        semi = (floor - top) / (1.0 + torch.sqrt(1.0 - share * share))
        return ellipse_distance(self.u - centre, self.v - (floor - semi), width, semi)

    def labels(self) -> torch.Tensor:
        """Label map uint8 (N, T, H, W) into `PHANTOM_CLASSES`: pixels whose centre lies in a structure."""
        return paint_labels(self, self.anatomy.four_chamber > 0.0)


def paint_labels(heart: Any, four_chamber: torch.Tensor | bool) -> torch.Tensor:
    """Label map uint8 into `CHAMBER_NAMES`, from the back to the front: pixels whose centre lies in a structure.

    Args:
        heart: has the signed distances of a drawn heart: ``below_base``, ``below_hinge``, and those of the chambers.
        four_chamber: whether the right heart is in the view.
    """
    above, below = heart.below_base < 0.0, heart.below_base >= 0.0
    labels = torch.zeros(heart.u.shape, dtype=torch.uint8, device=heart.u.device)
    labels.masked_fill_((heart.ra_distance < 0.0) & (heart.below_hinge >= 0.0) & four_chamber, 5)
    labels.masked_fill_((heart.rv_distance < 0.0) & (heart.below_hinge < 0.0) & four_chamber, 4)
    labels.masked_fill_((heart.la_distance < 0.0) & below, 3)
    labels.masked_fill_((heart.epi_distance < 0.0) & above, 2)
    labels.masked_fill_((heart.lv_distance < 0.0) & above, 1)
    return labels


class Canvas:
    """Echo level (dB) of each pixel, painted from the back to the front.

    Args:
        heart: the chambers.
        echo: levels, (N, 1, 1, 1).
        pixel: side of a pixel in mm, (N, 1, 1, 1).
        background: level around the heart, (N, 1, H, W).
        slow: a slow field of unit variance fixed to the tissue, (N, T, H, W): patches in the walls' level and
            trabeculae that roughen the cavity's border, which the tracing (the label map) leaves out.
    """

    def __init__(
        self, heart: Heart, echo: Echo, pixel: torch.Tensor, background: torch.Tensor, slow: torch.Tensor
    ) -> None:
        self.heart, self.echo = heart, echo
        self._pixel = pixel
        self._per_mm = 1.0 / pixel
        self._slow = slow
        self.level = background.expand(heart.u.shape).clone()

    def paint_all(self) -> torch.Tensor:
        """Paint the whole heart; returns the echo level."""
        if bool(self.heart.anatomy.four_chamber.max() > 0.0):
            self._right_heart()
        self._left_atrium()
        self._left_ventricle()
        self._mitral_valve()
        return self.level.addcmul_(self._slow, self.echo.patchiness)

    def _inside(self, distance: torch.Tensor, offset: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Share 0..1 of each pixel within ``offset`` mm outside a border."""
        return (distance - offset).mul_(-self._per_mm).add_(0.5).clamp_(0.0, 1.0)

    def _paint(self, cover: torch.Tensor, level: torch.Tensor) -> None:
        self.level.lerp_(level, cover)

    def _right_heart(self) -> None:
        heart, echo, four = self.heart, self.echo, self.heart.anatomy.four_chamber
        above = self._inside(heart.below_hinge).mul_(four)
        below = four - above
        self._paint(self._inside(heart.rv_distance, 4.0).mul_(above), echo.myocardium - 2.0)
        self._paint(self._inside(heart.ra_distance, 2.2).mul_(below), echo.myocardium - 4.0)
        # The blood of two adjoining chambers overlaps: only leaflets divide them, and they open.
        self._paint(self._inside(heart.rv_distance).mul_(self._inside(heart.below_hinge, 2.0)).mul_(four), echo.blood)
        self._paint(self._inside(heart.ra_distance).mul_(below), echo.blood)
        ring = 0.46 * heart.rv_width
        centre = -heart.face - ring
        angle = 0.12 + 1.1 * heart.motion.mitral_open
        leaflet = self._leaflets(heart.u - centre, heart.below_hinge, ring, 0.95 * ring, 0.95 * ring, angle)
        self._paint(leaflet.mul_(0.8 * four), echo.myocardium + 2.0)

    def _left_atrium(self) -> None:
        heart, echo = self.heart, self.echo
        below = 1.0 - self._inside(heart.below_base)
        self._paint(self._inside(heart.la_distance, 2.2).mul_(below), echo.myocardium - 3.0)
        self._paint(self._inside(heart.la_distance).mul_(below), echo.blood)

    def _left_ventricle(self) -> None:
        heart, anatomy, motion, echo = self.heart, self.heart.anatomy, self.heart.motion, self.echo
        above = self._inside(heart.below_base, 1.5)
        outer = self._inside(heart.epi_distance, 2.5).mul_(above)
        side = (heart.u / (2.0 * motion.half_width)).add_(0.5).clamp_(0.0, 1.0)  # 0 septal, 1 lateral
        self._paint(outer * (side > 0.6), echo.myocardium + 5.0)  # pericardium
        self._paint(self._inside(heart.epi_distance).mul_(above), echo.myocardium)
        away = (heart.along - echo.dropout_level).mul_(1.0 / 0.3)
        segment = away.mul_(away).neg_().exp_().mul_(outer)
        loss = torch.lerp(echo.septal_dropout.clamp(min=0.0), echo.dropout, side)
        self.level.sub_(segment.mul_(loss))
        cavity = self._inside(torch.addcmul(heart.lv_distance, self._slow, self.echo.trabeculae))
        cavity.mul_(self._inside(heart.below_base, 3.0))
        self._paint(cavity, echo.blood)
        thick = (motion.wall / anatomy.wall).sqrt()
        reach = (
            anatomy.papillary * thick * torch.lerp(side.new_tensor(0.45), side.new_tensor(1.0), heart.lateral.to(side))
        )
        level = anatomy.papillary_level + 0.12 * motion.twist
        wide = heart.straight.abs() - 0.80 * motion.half_width
        muscle = ellipse_distance(wide, heart.v - level * motion.length, reach, 8.0 * thick)
        self._paint(self._inside(muscle).mul_(cavity).mul_(0.75), echo.myocardium - 3.0)

    def _mitral_valve(self) -> None:
        """Leaflets from the annulus, the longer one on the septal side, and the bright ring they hinge on."""
        heart, anatomy, motion, echo = self.heart, self.heart.anatomy, self.heart.motion, self.echo
        ring = heart.ring
        long, short = anatomy.leaflet * 1.12 * ring, anatomy.leaflet * 0.80 * ring
        cover = self._leaflets(heart.straight, heart.below_base, ring, long, short, 0.10 + 1.15 * motion.mitral_open)
        self._paint(cover.mul_(0.85), echo.myocardium + 4.0)
        across = heart.straight.abs() - ring
        distance = (across * across).addcmul_(heart.below_base, heart.below_base).sqrt_()
        self._paint(self._inside(distance, 2.2).mul_(0.8), echo.myocardium + 3.0)

    def _leaflets(
        self,
        across: torch.Tensor,
        below: torch.Tensor,
        ring: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
        angle: torch.Tensor,
    ) -> torch.Tensor:
        """Cover of two bowed leaflets that hinge at -ring and +ring and swing by ``angle`` (rad) from their plane.

        Both sides are one calculation on |across|. Shut leaflets meet end to end.
        """
        anatomy = self.heart.anatomy
        reach = torch.lerp(left, right, (across > 0.0).to(across.dtype))
        cos, sin = torch.cos(angle), torch.sin(angle)
        p = ring - across.abs()  # from the hinge towards the middle
        along = (p * cos).addcmul_(below, -sin)
        normal = p.mul_(sin).addcmul_(below, cos)
        share = (along / reach).clamp_(0.0, 1.0)
        normal.sub_((share - share * share).mul_(4.0 * anatomy.leaflet_bow * ring))
        beyond = along.sub_(share.mul_(reach))
        distance = normal.mul_(normal).addcmul_(beyond, beyond).sqrt_()
        return self._inside(distance, torch.clamp(0.35 * self._pixel, min=1.1))
