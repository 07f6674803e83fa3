"""Ultrasound image formation of the phantom: from echo levels to grey values.

The received power of a pixel is  P = 10^(level / 10) |s|^2 + noise + clutter  with ``s`` a complex Gaussian field
(fully developed speckle: its amplitude |s| is Rayleigh distributed, Goodman 2007). The field is a texture in polar
coordinates around the probe, sampled at the end-diastolic position of each pixel's tissue: it moves with the tissue,
and its grains widen with depth as beams do. Electronic noise has an exponentially distributed power, new in
each frame. Log compression comes last: grey = (10 log10 P + gain) / dynamic range + 1, bent and clipped.

Legend: N clips, T frames, H rows, W columns. Lengths in mm, levels in dB, angles in rad. Optics are (N, 1, 1, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from echodfkd.sources.phantom.chambers import Heart
from echodfkd.sources.phantom.draws import gaussian_texture, scramble, uniform_of
from echodfkd.sources.phantom.view import Optics, Pose

_NEPER = math.log(10.0) / 10.0
TEXELS_PER_SIGMA = 1.5
"""Texels of the speckle texture per standard deviation of its point spread."""
_LATERAL_TEXELS = 224


class PointSpread(Protocol):
    """Standard deviations of the point spread along and across the beams, and the sector's depth, (N, 1, 1, 1)."""

    @property
    def axial(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def lateral(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def depth(self) -> torch.Tensor: ...  # noqa: D102


class GreyCurve(Protocol):
    """Settings of the log compression, (N, 1, 1, 1)."""

    @property
    def gain(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def dynamic_range(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def contrast(self) -> torch.Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class PixelGrid:
    """Pixel centres from the probe: x (N, 1, 1, W) and y (N, 1, H, 1) in mm, and the pixel's side (N, 1, 1, 1)."""

    x: torch.Tensor
    y: torch.Tensor
    pixel: torch.Tensor
    size: int


@dataclass(frozen=True)
class Still:
    """Fields that are the same in all frames of a clip, (N, 1, H, W).

    ``tissue`` is the gain of the beam on tissue in dB, ``floor`` the factor of the noise's power, ``clutter`` the
    power of reverberation, ``haze`` the level around the heart, ``sector`` the share of each pixel in the sector,
    ``width`` the amount of smearing by the beam's width (0..1), ``words`` int32 counters of the noise.
    ``texture`` (N, 3, R, C) moves with the tissue.
    """

    tissue: torch.Tensor
    floor: torch.Tensor
    clutter: torch.Tensor
    haze: torch.Tensor
    sector: torch.Tensor
    width: torch.Tensor
    words: torch.Tensor
    texture: torch.Tensor


def pixel_grid(optics: Optics, size: int) -> PixelGrid:
    """Centres of ``size`` x ``size`` pixels."""
    pixel = optics.side / size
    centres = torch.arange(size, dtype=torch.float32, device=pixel.device) + 0.5
    x = centres * pixel - optics.probe_x
    y = centres[:, None] * pixel - optics.probe_y
    return PixelGrid(x, y, pixel, size)


def heart_axes(grid: PixelGrid, pose: Pose) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel centres in heart coordinates u and v, each (N, T, H, W)."""
    x, y = grid.x - pose.apex_x, grid.y - pose.apex_y
    u = (x * (pose.cos * pose.stretch_u)) - (y * (pose.sin * pose.stretch_u))
    v = (x * (pose.sin * pose.stretch_v)) + (y * (pose.cos * pose.stretch_v))
    return u, v


def prepare_still(grid: PixelGrid, optics: Optics, counters: dict[str, torch.Tensor]) -> Still:
    """Compute the fields that are the same in all frames; ``counters`` as from `Draws.counters`."""
    radius = torch.sqrt(grid.x * grid.x + grid.y * grid.y)
    depth = radius / optics.depth
    angle = torch.atan2(grid.x, grid.y.clamp(min=1e-3))
    # Time-gain compensation is off by a slow wave over depth; it acts on noise too, attenuation and shadows do not.
    tgc = optics.tgc * torch.sin(5.0 * depth + optics.tgc_phase)
    tissue = tgc - optics.attenuation * depth
    for level, centre in ((optics.shadow_1, optics.shadow_angle_1), (optics.shadow_2, optics.shadow_angle_2)):
        tissue = tissue - level * torch.exp(-(((angle - centre) / optics.shadow_width) ** 2))
    texture = _tissue_texture(counters, grid.size)
    patches = F.interpolate(gaussian_texture(counters["patches"], 12, 12, 1.2), size=(grid.size,) * 2, mode="bicubic")
    # Clutter is speckle of its own, fixed to the probe: the tissue's texture mirrored, bounded against single spikes.
    reverberation = speckle_power(read_polar(texture.flip(2, 3), grid.x, grid.y, optics, grid)).clamp_(max=4.0)
    # Distance outside the sector in mm: its sides, its bottom, and 3 mm of dead zone at the probe.
    outside = torch.abs(grid.x) * torch.cos(optics.half_angle) - grid.y * torch.sin(optics.half_angle)
    outside = torch.maximum(torch.maximum(outside, radius - optics.depth), 3.0 - radius)
    pixels = grid.size * grid.size
    # One counter per pixel; a frame's number is added later, so that noise is independent of how frames are batched.
    place = torch.arange(pixels, dtype=torch.int32, device=radius.device) * 0x1E3779B1
    words = scramble(place + counters["noise"][:, None])
    return Still(
        tissue=tissue,
        floor=torch.exp(_NEPER * (optics.noise + tgc + 6.0 * depth)),
        clutter=torch.exp(_NEPER * (optics.clutter - radius * (8.7 / 9.0))) * reverberation,
        haze=optics.haze + optics.patches * 1.4 * patches[:, :1],
        sector=(0.5 - outside / grid.pixel).clamp(0.0, 1.0),
        width=(30.0 * optics.lateral * depth / 0.6).clamp(0.0, 1.0),
        words=words.view(-1, 1, grid.size, grid.size),
        texture=texture,
    )


def tissue_texture(
    heart: Heart, grid: PixelGrid, optics: Optics, texture: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample the texture at each pixel's tissue: two fields (N, T, H, W).

    The first is |s|^2: exponentially distributed, with a mean of about 0.9 (1 at the texels, less between them).
    The second is a slow Gaussian field of about unit variance, for the patchiness of walls. Tissue is traced back
    to end-diastole: across by the ratio of widths up to the outer wall and along by that of lengths, plus a shear from
    torsion.
    """
    anatomy, motion = heart.anatomy, heart.motion
    reach = heart.face
    back_u = heart.u.clamp(-reach, reach).mul_(anatomy.half_width / motion.half_width - 1.0).add_(heart.u)
    back_u.addcmul_(heart.along - 0.5, 0.3 * motion.twist * motion.half_width)
    back_v = (heart.along * (anatomy.length - motion.length)).add_(heart.v)
    field = read_polar(texture, back_u.sub_(optics.probe_u), back_v.sub_(optics.probe_v), optics, grid)
    return speckle_power(field), field[:, 2]


def compress(
    level: torch.Tensor, speckle: torch.Tensor, still: Still, optics: GreyCurve, frame_numbers: torch.Tensor
) -> torch.Tensor:
    """Grey 0..1 (N, T, H, W) of echo levels in dB and speckle power, with noise, clutter and log compression.

    Args:
        level: dB (N, T, H, W); overwritten.
        speckle: power with mean 1 (N, T, H, W).
        still: fields of all frames.
        optics: machine settings.
        frame_numbers: int32 (T,) of the frames in their clip; they seed the noise.
    """
    power = _beam_width(level, still.width).add_(still.tissue).mul_(_NEPER).exp_().mul_(speckle)
    words = scramble(still.words + frame_numbers.view(1, -1, 1, 1) * 0x2545F491)
    noise = uniform_of(words).log_().neg_()
    power.addcmul_(noise, still.floor).add_(still.clutter)
    grey = power.log_().mul_(1.0 / _NEPER / optics.dynamic_range).add_(1.0 + optics.gain / optics.dynamic_range)
    grey.clamp_(0.0, 1.0)
    grey.mul_((grey - 1.0).mul_(optics.contrast).add_(1.0))  # 0 and 1 stay, middle greys darken
    # Machines interpolate between beams: a light blur across, which also correlates the noise of neighbours.
    blurred = grey.mul(0.5)
    blurred[..., 1:].add_(grey[..., :-1], alpha=0.25)
    blurred[..., :-1].add_(grey[..., 1:], alpha=0.25)
    return blurred.mul_(still.sector)


def _beam_width(level: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Blend levels with their blur over five columns; the share grows with depth as the beam widens."""
    blurred = level * (3.0 / 9.0)
    for offset, weight in ((1, 2.0 / 9.0), (2, 1.0 / 9.0)):
        blurred[..., offset:].add_(level[..., :-offset], alpha=weight)
        blurred[..., :offset].add_(level[..., :offset], alpha=weight)
        blurred[..., :-offset].add_(level[..., offset:], alpha=weight)
        blurred[..., -offset:].add_(level[..., -offset:], alpha=weight)
    return level.lerp_(blurred, share)


def _tissue_texture(counters: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    """Real and imaginary part of the speckle and the slow field, float32 (N, 3, R, C)."""
    speckle = gaussian_texture(counters["speckle"], 3 * size, _LATERAL_TEXELS, TEXELS_PER_SIGMA)
    slow = gaussian_texture(counters["slow"], 36, 20, 0.8)[:, :1]
    slow = F.interpolate(slow, size=speckle.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([speckle, slow.mul_(math.sqrt(2.0))], dim=1)


def speckle_power(field: torch.Tensor) -> torch.Tensor:
    """|s|^2 of a field whose first channels are the real and the imaginary part of s."""
    return (field[:, 0] * field[:, 0]).addcmul_(field[:, 1], field[:, 1])


def read_polar(
    texture: torch.Tensor, x: torch.Tensor, y: torch.Tensor, optics: PointSpread, grid: PixelGrid
) -> torch.Tensor:
    """Sample a texture at points relative to the probe, bilinear, mirrored at its border: (N, channels, T, H, W).

    A pixel's own footprint (half a pixel) widens the point spread. Rows are texels along the beam, columns across.
    """
    rows, columns = texture.shape[2:]
    axial = torch.sqrt(optics.axial**2 + (0.5 * grid.pixel) ** 2) / TEXELS_PER_SIGMA
    footprint = 0.5 * grid.pixel / (0.6 * optics.depth)
    lateral = torch.sqrt(optics.lateral**2 + footprint**2) / TEXELS_PER_SIGMA
    y = y.clamp(min=1.0)
    radius = torch.sqrt(x * x + y * y)
    places = torch.stack([(x / y) * (2.0 / (columns * lateral)), radius.mul_(2.0 / (rows * axial)).sub_(1.0)], dim=-1)
    N, T, H, W = places.shape[:4]
    field = F.grid_sample(
        texture, places.view(N, T * H, W, 2), mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return field.view(N, -1, T, H, W)
