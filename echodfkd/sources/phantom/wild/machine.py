"""The machine and the probe of a wild clip: sector, pose of the heart in it, fields that are still, grey picture.

Legend: T frames, H rows, W columns. Lengths in mm, levels in dB, angles in rad. Fields (1, T, H, W) float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from echodfkd.sources.phantom.draws import Draws, gaussian_texture, scramble
from echodfkd.sources.phantom.image import (
    TEXELS_PER_SIGMA,
    PixelGrid,
    Still,
    read_polar,
    speckle_power,
)
from echodfkd.sources.phantom.view import breath_cycle, hand_wander
from echodfkd.sources.phantom.wild.heart import WildShape
from echodfkd.sources.phantom.wild.ranges import WildDraws
from echodfkd.sources.phantom.wild.rhythm import Rhythm

_NEPER = math.log(10.0) / 10.0
_COLUMNS = 224


@dataclass(frozen=True)
class Machine:
    """Settings of a clip, each a scalar tensor, and the pixel grid."""

    grid: PixelGrid
    side: float
    depth: torch.Tensor
    left: float
    right: float
    dead_zone: float
    axial: torch.Tensor
    lateral: torch.Tensor
    gain: torch.Tensor
    dynamic_range: torch.Tensor
    contrast: torch.Tensor


@dataclass(frozen=True)
class Placement:
    """Apex in mm from the probe and tilt, at rest and (T,) over the clip, and the stretch of both axes."""

    rest_x: float
    rest_y: float
    rest_tilt: float
    apex_x: torch.Tensor
    apex_y: torch.Tensor
    tilt: torch.Tensor
    stretch_u: float
    stretch_v: float


def place_heart(shape: WildShape, rhythm: Rhythm, draw: WildDraws, key: int) -> tuple[Placement, float]:
    """Pose of the heart and the side of the image in mm: the middle of the ventricle lies in the sector."""
    stretch = draw("foreshortening")
    length = shape.rest_length * stretch
    apex_depth = draw("apex_depth")
    half = math.radians(draw("half_angle"))
    reach = apex_depth + 0.5 * length
    # Its middle stays in the sector, with a half to most of its width.
    widest = shape.rest_width * draw("rotation")
    beam = half * draw("centre")
    room = max(0.0, half - draw.between("in sector", 0.6, 1.3) * math.atan(widest / reach))
    beam = max(-room, min(room, beam))
    tilt = beam + math.radians(draw("lean"))
    x = reach * math.sin(beam) - 0.5 * length * math.sin(tilt)
    y = reach * math.cos(beam) - 0.5 * length * math.cos(tilt)
    bottom = y + length * math.cos(tilt)
    side = max(length / draw("share"), bottom * 1.04)
    draws = Draws([key])
    seconds = rhythm.seconds[None]
    breath = draw("breathing") * breath_cycle(seconds, draws)[0]
    shake = draw("shake")
    turn = math.radians(draw("rocking")) * rhythm.ejected + 0.015 * shake * hand_wander("turn", seconds, draws)[0]
    placement = Placement(
        rest_x=x,
        rest_y=y,
        rest_tilt=tilt,
        apex_x=x + breath + shake * hand_wander("x", seconds, draws)[0],
        apex_y=y + 0.4 * breath + shake * hand_wander("y", seconds, draws)[0],
        tilt=tilt + turn,
        stretch_u=draw("rotation"),
        stretch_v=stretch,
    )
    return placement, side


def set_up(side: float, draw: WildDraws, size: int) -> Machine:
    """Settings, and the pixel grid of a square image of this side."""
    pixel = side / size
    centres = (torch.arange(size, dtype=torch.float32) + 0.5) * pixel
    x = centres.view(1, 1, 1, -1) - side * draw("probe_x")
    y = centres.view(1, 1, -1, 1) - side * draw("probe_y")
    left = math.radians(draw("half_angle"))
    number = torch.tensor
    return Machine(
        grid=PixelGrid(x, y, number(pixel), size),
        side=side,
        depth=number(side * draw("depth")),
        left=left,
        right=left * draw("uneven"),
        dead_zone=draw("dead_zone"),
        axial=number(draw("axial")),
        lateral=number(draw("lateral")),
        gain=number(draw("gain") + 0.3 * max(0.0, draw("attenuation"))),
        dynamic_range=number(draw("dynamic_range")),
        contrast=number(draw("contrast")),
    )


def prepare(machine: Machine, draw: WildDraws, key: int, around: float) -> Still:
    """Fields that are the same in all frames; ``texture`` has speckle (2 channels), coarse patches and finer grains."""
    grid = machine.grid
    draws = Draws([key])
    counter = {name: draws.counters(f"wild {name}", torch.device("cpu")) for name in ("speckle", "slow", "noise")}
    radius = torch.hypot(grid.x, grid.y)
    depth = radius / machine.depth
    angle = torch.atan2(grid.x, grid.y.clamp(min=1e-3))
    tgc = draw("tgc") * torch.sin((3.0 + 6.0 * draw.share("tgc pace")) * depth + 6.3 * draw.share("tgc phase"))
    tissue = tgc - draw("attenuation") * depth - _side_shadow(angle, machine, draw)
    texture = _texture(counter, grid.size)
    patches = F.interpolate(texture[:, 2:3, ::16, ::12], size=(grid.size,) * 2, mode="bicubic", align_corners=False)
    haze = around + draw("patches") * patches
    reverberation = speckle_power(read_polar(texture.flip(2, 3), grid.x, grid.y, machine, grid)).clamp_(max=4.0)
    clutter = torch.exp(_NEPER * (draw("clutter") - radius * (8.7 / draw("clutter_reach")))) + _fog(radius, angle, draw)
    streaks = 1.0 + draw("streaks") * torch.sin(radius * draw.between("streak pace", 0.5, 1.6) + 4.0 * angle)
    pixels = grid.size * grid.size
    words = scramble(torch.arange(pixels, dtype=torch.int32) * 0x1E3779B1 + counter["noise"])
    return Still(
        tissue=tissue,
        floor=torch.exp(_NEPER * (draw("noise") + tgc + draw.between("noise slope", 0.0, 9.0) * depth)),
        clutter=clutter * streaks * reverberation,
        haze=haze,
        sector=_sector(machine, radius),
        width=(30.0 * machine.lateral * depth / 0.6).clamp(0.0, 1.0),
        words=words.view(1, 1, grid.size, grid.size),
        texture=texture,
    )


def _sector(machine: Machine, radius: torch.Tensor) -> torch.Tensor:
    """Share of each pixel in the sector: between its sides, its bottom and the dead zone at the probe."""
    x, y = machine.grid.x, machine.grid.y
    sides = torch.where(
        x < 0.0,
        -x * math.cos(machine.left) - y * math.sin(machine.left),
        x * math.cos(machine.right) - y * math.sin(machine.right),
    )
    outside = torch.maximum(torch.maximum(sides, radius - machine.depth), machine.dead_zone - radius)
    return (0.5 - outside / machine.grid.pixel).clamp(0.0, 1.0)


def _side_shadow(angle: torch.Tensor, machine: Machine, draw: WildDraws) -> torch.Tensor:
    """Loss behind the lung or a rib at one side of the sector."""
    if not draw.chance("side_shadow"):
        return torch.zeros_like(angle)
    right = draw.share("side") < 0.7
    edge = draw("side_place") * (machine.right if right else machine.left)
    beyond = (angle - edge) if right else (-angle - edge)
    return draw("side_loss") * torch.sigmoid(beyond / draw.between("side width", 0.015, 0.12))


def _fog(radius: torch.Tensor, angle: torch.Tensor, draw: WildDraws) -> torch.Tensor:
    """Power of patches of fog that are fixed to the probe."""
    power = torch.zeros_like(radius)
    for number in range(round(draw("fogs"))):
        place, turn = draw.between(f"fog {number} place", 5.0, 90.0), draw.between(f"fog {number} turn", -0.6, 0.6)
        wide, tall = draw.between(f"fog {number} wide", 0.1, 0.4), draw.between(f"fog {number} tall", 6.0, 35.0)
        away = ((radius - place) / tall) ** 2 + ((angle - turn) / wide) ** 2
        power = power + math.exp(_NEPER * draw("fog", number)) * torch.exp(-away)
    return power


def moving_shadows(machine: Machine, draw: WildDraws, breath: torch.Tensor) -> torch.Tensor | float:
    """Loss in dB (T, H, W) behind ribs, which drift with the breath (T,); 0.0 if there are none."""
    count = round(draw("shadows"))
    if not count:
        return 0.0
    grid = machine.grid
    angle = torch.atan2(grid.x, grid.y.clamp(min=1e-3))[0]
    loss = torch.zeros(1, 1, 1)
    for number in range(count):
        place = draw.between(f"shadow {number}", -machine.left, machine.right)
        centre = place + draw("shadow_drift", number) * breath.float()[:, None, None]
        loss = loss + draw("shadow", number) * torch.exp(-(((angle - centre) / draw("shadow_width", number)) ** 2))
    return loss


def read_tissue(
    u: torch.Tensor, v: torch.Tensor, shape: WildShape, part: slice, place: Placement, machine: Machine, still: Still
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Speckle power and the two slow fields, each (T, H, W), at each pixel's tissue traced back to end-diastole."""
    first, width = shape.rest_length, shape.rest_width
    apex, length, half = (value[part].float()[:, None, None] for value in (shape.apex, shape.length, shape.half_width))
    face = shape.face[part].float()[:, None, None]
    back_u = torch.minimum(torch.maximum(u, -face), face).mul_(width / half - 1.0).add_(u)
    back_v = ((v - apex) / (length - apex)).clamp_(0.0, 1.0).mul_(first - length + apex).add_(v - apex)
    cos, sin = math.cos(place.rest_tilt), math.sin(place.rest_tilt)
    x = back_u * cos + back_v * sin + place.rest_x
    y = back_v * cos - back_u * sin + place.rest_y
    field = read_polar(still.texture, x[None], y[None], machine, machine.grid)
    return speckle_power(field)[0], (field[0, 2], field[0, 3])


def _texture(counter: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    """Speckle as real and imaginary part, coarse patches, finer grains: float32 (1, 4, R, C)."""
    speckle = gaussian_texture(counter["speckle"], 3 * size, _COLUMNS, TEXELS_PER_SIGMA)
    coarse = gaussian_texture(counter["slow"], 24, 16, 0.8)[:, :1]
    fine = gaussian_texture(counter["slow"] + 77, 96, 56, 0.8)[:, :1]
    slow = [
        F.interpolate(field, size=speckle.shape[2:], mode="bilinear", align_corners=False) for field in (coarse, fine)
    ]
    return torch.cat([speckle, torch.cat(slow, dim=1).mul_(math.sqrt(2.0))], dim=1)
