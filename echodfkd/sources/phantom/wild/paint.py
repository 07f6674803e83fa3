"""Echo levels and labels of a wild heart at the pixels of some frames.

Structures are painted from the back to the front, with an edge one pixel wide. The label map follows readers'
tracings: the ventricle ends at the compact wall (papillary muscles, trabeculae and tendons belong to the cavity) and at
the annular plane, and nothing is labelled outside the sector.

Legend: T frames, H rows, W columns. Lengths in mm, levels in dB; fields (T, H, W) float32.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from echodfkd.sources.phantom.chambers import ellipse_distance, paint_labels
from echodfkd.sources.phantom.wild.heart import ANGLES, WildShape
from echodfkd.sources.phantom.wild.levels import Levels
from echodfkd.sources.phantom.wild.ranges import WildDraws


class WildChart:
    """Pixel centres in heart coordinates, and their distances from every chamber's border (negative inside).

    Args:
        u: across the long axis, (T, H, W).
        v: along it, from the apex.
        shape: the heart over the whole clip.
        part: its frames that are charted.
        levels: echo levels, read at each pixel's angle.
    """

    def __init__(self, u: torch.Tensor, v: torch.Tensor, shape: WildShape, part: slice, levels: Levels) -> None:
        self.shape, self.u, self.v = shape, u, v
        self.length, self.half_width, self.ring, face, self.ejected, self.pressed = (
            value[part].float()[:, None, None]
            for value in (shape.length, shape.half_width, shape.ring, shape.face, shape.ejected, shape.pressed)
        )
        along = (v / self.length).clamp_(0.0, 1.0)
        self.along = along
        self.straight = u - (4.0 * shape.bend * self.length) * (along - along * along)
        self.straight.add_((1.0 - along).square_() * (shape.apex_shift * self.half_width))
        self.below_base = torch.add(v - self.length, self.straight, alpha=-shape.slope)
        self._read_tables(part, levels)
        self._place_chambers(face)

    def _read_tables(self, part: slice, levels: Levels) -> None:
        shape = self.shape
        moving = torch.stack([shape.endo[part], shape.epi[part], shape.straighten[part]], dim=1)
        still = torch.stack([levels.wall, levels.lost, levels.behind, levels.rough])
        tables = torch.cat([moving, still.expand(len(moving), -1, -1)], dim=1).float()
        tables = torch.cat([tables[..., -1:], tables, tables[..., :1]], dim=-1)[:, :, None]
        up = self.shape.centre[part].float()[:, None, None] - self.v
        self.theta = torch.atan2(self.straight, up)
        place = self.theta * (ANGLES / (math.pi * (ANGLES + 1)))
        grid = torch.stack([place, torch.zeros_like(place)], dim=-1)
        found = F.grid_sample(tables, grid, mode="bilinear", padding_mode="border", align_corners=True)
        endo, epi, straighten, self.wall, self.lost, self.behind, self.rough = found.unbind(1)
        radius = torch.hypot(self.straight, up)
        self.lv_distance = (radius - endo).mul_(straighten)
        self.epi_distance = (radius - epi).mul_(straighten)

    def _place_chambers(self, face: torch.Tensor) -> None:
        shape = self.shape
        self.rv_width = shape.rv_width * (1.0 - 0.2 * self.ejected)
        self.rv_centre = -face - 0.55 * (self.rv_width - 12.0)
        self.hinge = self.length - shape.tricuspid
        self.below_hinge = (self.v - self.hinge).add_(self.u + face, alpha=0.12)
        self.rv_distance = ellipse_distance(
            self.u - self.rv_centre, self.v - 0.86 * self.length, self.rv_width, shape.rv_reach * self.length
        )
        swell = 1.0 + 0.10 * self.ejected
        width, right = shape.la_width * swell, shape.ra_width * swell
        self.la_distance = self._atrium(shape.la_shift, width, self.ring, self.length, shape.la_floor)
        self.ra_centre = shape.la_shift - width - 2.5 - right
        self.ra_distance = self._atrium(self.ra_centre, right, 0.5 * self.rv_width, self.hinge, shape.ra_floor)

    def _atrium(
        self,
        centre: float | torch.Tensor,
        width: torch.Tensor,
        ring: torch.Tensor,
        top: torch.Tensor,
        floor: float,
    ) -> torch.Tensor:
        """An ellipse that is as wide as its valve's ring at the top; the floor does not move."""
        share = (ring / width).clamp(max=0.95)
        semi = (floor - top).clamp(min=8.0) / (1.0 + torch.sqrt(1.0 - share * share))
        return ellipse_distance(self.u - centre, self.v - (floor - semi), width, semi)

    def labels(self, visible: torch.Tensor) -> torch.Tensor:
        """Label map uint8 into `CHAMBER_NAMES` of the pixels that are ``visible`` (H, W): those in the sector."""
        return paint_labels(self, self.shape.four_chamber).masked_fill_(~visible, 0)


class WildCanvas:
    """Echo level (T, H, W) of a chart.

    Args:
        chart: the heart.
        levels: echo levels.
        draw: numbers of the clip.
        pixel: side of a pixel in mm.
        behind: level around the heart, (H, W).
        slow: unit fields fixed to the tissue: coarse patches and finer grains, each (T, H, W).
        valve: opening of the mitral valve, (T, 1, 1).
    """

    def __init__(
        self,
        chart: WildChart,
        levels: Levels,
        draw: WildDraws,
        pixel: float,
        behind: torch.Tensor,
        slow: tuple[torch.Tensor, torch.Tensor],
        valve: torch.Tensor,
    ) -> None:
        self.chart, self.of, self._levels, self._draw = chart, levels.of, levels, draw
        self._pixel, self._patches, self._grains, self._valve = pixel, slow[0], slow[1], valve
        self.level = behind.expand(chart.u.shape).clone()

    def paint_all(self) -> torch.Tensor:
        """Paint everything; returns the level."""
        self._surroundings()
        if self.chart.shape.four_chamber:
            self._right_heart()
        self._left_atrium()
        self._great_vessels()
        self._wall()
        self._cavity()
        self._mitral_valve()
        return self.level.add_(self._patches, alpha=self._draw("patchiness"))

    def _inside(self, distance: torch.Tensor, offset: float = 0.0) -> torch.Tensor:
        return (distance - offset).mul_(-1.0 / self._pixel).add_(0.5).clamp_(0.0, 1.0)

    def _paint(self, cover: torch.Tensor, level: torch.Tensor | float) -> None:
        if isinstance(level, float):
            level = self.level.new_tensor(level)
        self.level.lerp_(level, cover)

    def _deep(self, level: float) -> torch.Tensor:
        """The level of an atrium's wall: it fades below the base."""
        chart = self.chart
        return (chart.v - chart.length).clamp_(min=0.0).mul_(-self._draw("dissolve")).add_(level)

    def _surroundings(self) -> None:
        """Lung behind the lateral wall, liver and lung below the atria, the pericardium's line."""
        chart = self.chart
        outside = chart.epi_distance.clamp(min=0.0)
        haze = (chart.behind - outside * self._draw("lung_decay")).add_(self._grains, alpha=2.5)
        self.level = torch.maximum(self.level, haze)
        deepest = max(chart.shape.la_floor, chart.shape.ra_floor if chart.shape.four_chamber else 0.0)
        edge = (chart.v - deepest - self._draw.between("floor", -4.0, 14.0)).add_(self._patches, alpha=5.0)
        self._paint(torch.sigmoid(edge.mul_(0.25)), self._grains.mul(4.0).add_(self.of["floor"]))

    def _right_heart(self) -> None:
        chart, draw = self.chart, self._draw
        above = self._inside(chart.below_hinge)
        below = 1.0 - above
        wall = draw.between("right wall", 2.0, 6.0)
        self._paint(self._inside(chart.rv_distance, wall) * above, self.of["right_wall"])
        self._paint(self._inside(chart.ra_distance, 2.2) * below, self._deep(self.of["atrial_wall"]))
        rough = self._grains.mul(0.4 * draw("trabeculae", 1)).add_(chart.rv_distance)
        self._paint(self._inside(rough).mul_(self._inside(chart.below_hinge, 2.0)), self.of["rv_blood"])
        self._paint(self._inside(chart.ra_distance).mul_(below), self.of["ra_blood"])
        if draw.chance("moderator_band"):
            start = (chart.rv_centre - 0.8 * chart.rv_width, 0.45 * chart.length)
            self._line(start, (chart.rv_centre + 0.8 * chart.rv_width, 0.35 * chart.length), 1.8, "right_wall")
        ring = 0.5 * chart.rv_width
        leaflets = self._leaflets(chart.u - (chart.rv_centre + 0.25 * ring), chart.below_hinge, ring, 0.95)
        self._paint(leaflets.mul_(0.7), self.of["leaflet"])

    def _left_atrium(self) -> None:
        chart = self.chart
        below = 1.0 - self._inside(chart.below_base)
        self._paint(self._inside(chart.la_distance, 2.2).mul_(below), self._deep(self.of["atrial_wall"]))
        if chart.shape.four_chamber:  # the septum between the atria, which is brighter than their other walls
            middle = chart.u - (chart.shape.la_shift - chart.shape.la_width - 1.25)
            line = self._inside(middle.abs_().sub_(self._draw.between("atrial septum", 1.0, 3.5)))
            line.mul_(below).mul_((chart.v < chart.shape.la_floor).float())
            self._paint(line.mul_(0.8), self._deep(self.of["atrial_septum"]))
        self._paint(self._inside(chart.la_distance).mul_(below), self.of["la_blood"])

    def _great_vessels(self) -> None:
        """The aortic root of a five-chamber view, and the descending aorta behind the atrium."""
        chart, draw = self.chart, self._draw
        if draw.chance("aortic_root"):
            size = draw.between("root size", 7.0, 14.0)
            across = chart.u + 0.9 * chart.ring + draw.between("root place", -4.0, 4.0)
            root = ellipse_distance(
                across, chart.v - chart.length - 0.8 * size, *chart.u.new_tensor([size, 1.3 * size])
            )
            self._paint(self._inside(root, 2.0), self.of["atrial_septum"])
            self._paint(self._inside(root), self.of["lv_blood"])
        if draw.chance("descending_aorta"):
            size = draw.between("aorta size", 8.0, 14.0)
            across = chart.u - chart.shape.la_shift - draw.between("aorta place", -5.0, 25.0)
            aorta = torch.hypot(across, chart.v - chart.shape.la_floor - 0.7 * size).sub_(size)
            self._paint(self._inside(aorta, 2.0), self.of["atrial_wall"])
            self._paint(self._inside(aorta), self.of["la_blood"])

    def _wall(self) -> None:
        chart, of = self.chart, self.of
        above = self._inside(chart.below_base, 2.0)
        seen = 1.0 - chart.lost
        line = self._inside(chart.epi_distance.sub(1.2).abs_().sub_(self._draw.between("pericardium", 0.5, 2.0)))
        line.mul_((chart.behind - of["around"]).mul_(0.1).clamp_(0.0, 1.0))
        self._paint(line.mul_(seen), of["pericardium"])
        depth = chart.lv_distance / (chart.lv_distance - chart.epi_distance).clamp_(min=1.0)  # 0 inside to 1 outside
        wall = torch.add(chart.wall, depth.clamp_(0.0, 1.0).sub_(1.0), alpha=self._draw("inner_loss"))
        wall = torch.lerp(wall.new_tensor(self._levels.lost_level), wall, seen)
        inner = chart.lv_distance.sub(1.0).abs_().mul_(-0.5).add_(1.0).clamp_(min=0.0)
        wall.add_(inner.mul_(seen), alpha=self._draw("endocardium"))
        self._paint(self._inside(chart.epi_distance).mul_(above), wall)

    def _cavity(self) -> None:
        chart, draw, of = self.chart, self._draw, self.of
        rough = self._grains.add(0.4).clamp_(min=0.0).mul_(chart.rough).add_(chart.lv_distance)
        # Trabeculae hold blood in diastole, and are traced as cavity; systole presses them together, into the wall.
        layer = draw("spongy")
        edge = layer * chart.pressed + (draw("bloom") + 0.5 * self._pixel)
        cavity = (edge - rough).div_(layer + self._pixel).clamp_(0.0, 1.0).mul_(self._inside(chart.below_base, 3.0))
        self._paint(cavity, of["lv_blood"])
        muscle = of["myocardium"] + draw.between("papillary level", -8.0, 8.0)
        sides = (1.0, -1.0) if draw.chance("second_papillary") else (1.0,)
        for number, side in enumerate(sides):
            thick = draw("papillary", number) * (1.0 + 0.4 * chart.ejected)
            place = draw("papillary_level", number) * chart.length
            at = side * (0.98 * chart.half_width - thick)
            lean = 0.25 * side * (chart.v - place)
            distance = ellipse_distance(chart.straight - at + lean, chart.v - place, thick + 0.5, 6.0 + thick)
            self._paint(self._inside(distance).mul_(cavity).mul_(0.85), muscle)
            if draw.chance("chordae"):
                end = (0.35 * side * chart.ring, chart.length - 4.0 - 8.0 * self._valve)
                self._line((at, place), end, 0.5, "leaflet", 0.5)
        if draw.chance("tendon"):
            start = (-0.8 * chart.half_width, draw.between("tendon start", 0.2, 0.7) * chart.length)
            end = (0.8 * chart.half_width, draw.between("tendon end", 0.2, 0.7) * chart.length)
            self._line(start, end, 0.6, "leaflet", 0.6)

    def _line(
        self,
        start: tuple[torch.Tensor, torch.Tensor],
        end: tuple[torch.Tensor, torch.Tensor],
        thick: float,
        material: str,
        cover: float = 1.0,
    ) -> None:
        """A straight band between two points in (u, v)."""
        du, dv = end[0] - start[0], end[1] - start[1]
        u, v = self.chart.u - start[0], self.chart.v - start[1]
        share = ((u * du).addcmul_(v, dv) / (du * du + dv * dv)).clamp_(0.0, 1.0)
        distance = torch.hypot(u - share * du, v - share * dv).sub_(max(thick, 0.4 * self._pixel))
        self._paint(self._inside(distance).mul_(cover), self.of[material])

    def _mitral_valve(self) -> None:
        chart, draw = self.chart, self._draw
        cover = self._leaflets(chart.straight, chart.below_base, chart.ring, draw("leaflet_length"))
        self._paint(cover.mul_(0.9), self.of["leaflet"])
        size = draw.between("crux size", 1.5, 4.5)
        across = chart.straight.abs() - chart.ring - 1.0
        away = (across * across).addcmul_(chart.below_base, chart.below_base).mul_(-1.0 / (size * size)).exp_()
        lateral = draw.between("lateral crux", 0.0, 1.0)
        self._paint(away.mul_(torch.where(chart.straight > 0.0, lateral, 0.95)), self.of["crux"])

    def _leaflets(self, across: torch.Tensor, below: torch.Tensor, ring: torch.Tensor, reach: float) -> torch.Tensor:
        """Cover of two bowed leaflets that hinge at -ring and +ring: shut they tent, open they hang into the cavity."""
        angle = self._draw("tenting") + (1.25 - self._draw("tenting")) * self._valve
        long = torch.where(across > 0.0, 0.85 * reach, 1.1 * reach) * ring
        cos, sin = torch.cos(angle), torch.sin(angle)
        inwards = ring - across.abs()
        along = (inwards * cos).sub_(below * sin)
        normal = inwards.mul_(sin).add_(below * cos)
        share = (along / long).clamp_(0.0, 1.0)
        normal.sub_((share - share * share).mul_(4.0 * self._draw("leaflet_bow") * ring))
        beyond = along.sub_(share.mul_(long))
        thick = max(self._draw.between("leaflet thickness", 0.6, 1.4), 0.35 * self._pixel)
        return self._inside(torch.hypot(normal, beyond), thick)
