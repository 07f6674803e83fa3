"""How the phantom's heart looks through a probe: an apical four-chamber sector image.

The chambers are painted in decibels (`phantom_chambers`), covered with speckle and compressed to grey. Speckle is
the amplitude of a complex Gaussian field (Rayleigh), most of it fixed to the tissue and carried along by its motion.
Beam effects follow: attenuation with depth, shadows along beams, clutter near the probe, and the sector's borders.
All noise comes from the clip's own generator.

Legend: T frames, H rows, W columns. Lengths in mm, levels in dB, angles in rad.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from echodfkd.synthesis.phantom_anatomy import Anatomy, Motion
from echodfkd.synthesis.phantom_chambers import Canvas, Echo, Heart, column

_F = np.float32


@dataclass(frozen=True)
class View:
    """Where the probe stands and how the machine is set."""

    side: float
    """Side of the square image in mm."""
    probe_x: float
    probe_y: float
    depth: float
    half_angle: float
    apex_x: float
    apex_y: float
    tilt: float
    swing: float
    drift: float
    drift_phase: float
    gain: float
    dynamic_range: float
    attenuation: float
    gamma: float
    clutter: float
    noise: float
    echo: Echo
    shadow_angles: tuple[float, ...]
    shadow_levels: tuple[float, ...]


def draw_view(anatomy: Anatomy, rng: np.random.Generator) -> View:
    """Draw a probe position and machine settings that show the whole left ventricle of this heart."""
    scale = anatomy.length / 79.0
    apex_y = rng.uniform(15.0, 23.0) * scale
    depth = (apex_y + anatomy.length + anatomy.la_depth) * rng.uniform(0.92, 1.08)
    side = depth * rng.uniform(1.0, 1.08)
    half_angle = math.radians(rng.uniform(37.0, 46.0))
    shadows = rng.integers(0, 3)
    return View(
        side=side,
        probe_x=side * rng.uniform(0.46, 0.54),
        probe_y=side * rng.uniform(0.0, 0.05),
        depth=depth,
        half_angle=half_angle,
        apex_x=rng.uniform(0.0, 12.0) * scale,
        apex_y=apex_y,
        tilt=math.radians(rng.uniform(-8.0, 14.0)),
        swing=math.radians(rng.uniform(-3.0, 3.0)),
        drift=rng.uniform(0.0, 2.5),
        drift_phase=rng.uniform(0.0, 2.0 * math.pi),
        gain=rng.uniform(-3.0, 7.0),
        dynamic_range=rng.uniform(42.0, 58.0),
        attenuation=rng.uniform(0.0, 12.0),
        gamma=rng.uniform(0.9, 1.4),
        clutter=rng.uniform(0.0, 28.0),
        noise=rng.uniform(1.6, 5.0),
        echo=Echo(
            myocardium=rng.uniform(-22.0, -16.0),
            blood=rng.uniform(-48.0, -37.0),
            haze=rng.uniform(-40.0, -30.0),
            dropout=rng.uniform(-10.0, 18.0),
            dropout_level=rng.uniform(0.1, 0.8),
            dropout_lateral=bool(rng.uniform() < 0.7),
        ),
        shadow_angles=tuple(rng.uniform(-0.9, 0.9, shadows) * half_angle),
        shadow_levels=tuple(rng.uniform(4.0, 18.0, shadows)),
    )


def render(
    anatomy: Anatomy, motion: Motion, view: View, *, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a clip.

    Returns:
        video uint8 (T, size, size) and the mask of the left ventricle's cavity, bool (T, size, size).
    """
    pixel = view.side / size
    centres = ((np.arange(size) + 0.5) * pixel).astype(_F)
    x_HW, y_HW = np.meshgrid(centres - _F(view.probe_x), centres - _F(view.probe_y))
    u, v = _heart_axes(x_HW, y_HW, motion, view)
    heart = Heart(u, v, anatomy, motion, pixel)
    canvas = Canvas(heart, view.echo)
    canvas.paint_all()
    level = canvas.level
    level += _speckle(heart, rng) * (_F(0.45) + _F(0.55) * canvas.solid)
    level += rng.standard_normal(level.shape, dtype=_F) * _F(view.noise)
    level[:, :, 1:-1] = level[:, :, 1:-1] * _F(0.5) + (level[:, :, 2:] + level[:, :, :-2]) * _F(0.25)  # beam width
    level += _beam(x_HW, y_HW, view)
    grey = np.clip(level * _F(1.0 / view.dynamic_range) + _F(1.0 + view.gain / view.dynamic_range), 0.0, 1.0)
    grey = np.power(grey, _F(view.gamma))
    grey *= _sector(x_HW, y_HW, view, pixel) * _F(255.0)
    return np.rint(grey).astype(np.uint8), heart.lv_mask


def _heart_axes(x_HW: np.ndarray, y_HW: np.ndarray, motion: Motion, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres in the heart's axes u and v, each (T, H, W); the heart sways with breath and twists with beats."""
    tilt = view.tilt + view.swing * motion.ejected
    sway = view.drift * np.sin(0.25 * 2.0 * math.pi * motion.phase + view.drift_phase)
    x = x_HW - column(view.apex_x + sway)
    y = y_HW - column(view.apex_y + 0.4 * sway)
    cos, sin = column(np.cos(tilt)), column(np.sin(tilt))
    return x * cos - y * sin, x * sin + y * cos


def _speckle(heart: Heart, rng: np.random.Generator) -> np.ndarray:
    """Tissue-locked speckle in dB about its mean, (T, H, W): a texture read at where the tissue was at rest."""
    anatomy, motion, pixel = heart.anatomy, heart.motion, heart.pixel
    reach = heart.half_width + _F(anatomy.wall_septal) * column(motion.thickening)
    rest_width = _F(motion.half_width.max())
    u_rest = heart.u + np.clip(heart.u, -reach, reach) * (rest_width / heart.half_width - 1.0)
    v_rest = heart.v + np.clip(heart.v, 0.0, heart.length) * (_F(anatomy.length) / heart.length - 1.0)
    texels = 160
    across = _blur(rng.standard_normal((2, texels, texels), dtype=_F), 2, max(0.75, 1.6 / pixel))
    field = _blur(across, 1, max(0.5, 0.8 / pixel))
    amplitude = np.sqrt(field[0] ** 2 + field[1] ** 2)
    texture = np.maximum(_F(20.0) * np.log10(amplitude / amplitude.mean() + _F(1e-3)), _F(-18.0)).astype(_F)
    slow = _blur(_blur(rng.standard_normal((texels, texels), dtype=_F), 1, 7.0 / pixel), 0, 7.0 / pixel)
    texture += slow * _F(2.2)
    return _sample(texture, u_rest * _F(1.0 / pixel), v_rest * _F(1.0 / pixel))


def _sample(texture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear reading of a texture that repeats in both directions."""
    side = texture.shape[0]
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    column, row = x0.astype(np.int32) % side, y0.astype(np.int32) % side
    right, lower = (column + 1) % side, (row + 1) % side * side
    row *= side
    flat = texture.ravel()
    top = flat[row + column]
    top += (flat[row + right] - top) * fx
    bottom = flat[lower + column]
    bottom += (flat[lower + right] - bottom) * fx
    return top + (bottom - top) * fy


def _blur(field: np.ndarray, axis: int, sigma: float) -> np.ndarray:
    """Periodic Gaussian blur along one axis, scaled back to the variance of white noise."""
    radius = int(3.0 * sigma) + 1
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= math.sqrt(float((weights**2).sum()))
    result = np.zeros_like(field)
    for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
        result += np.roll(field, offset, axis) * _F(weight)
    return result


def _beam(x_HW: np.ndarray, y_HW: np.ndarray, view: View) -> np.ndarray:
    """What the beam adds in dB (H, W): attenuation, shadows along beams, clutter near the probe."""
    radius = np.sqrt(x_HW * x_HW + y_HW * y_HW)
    angle = np.arctan2(x_HW, np.maximum(y_HW, _F(1e-3)))
    beam = -_F(view.attenuation) * radius * _F(1.0 / view.depth)
    beam += _F(view.clutter) * np.exp(-radius * _F(1.0 / 14.0))
    for centre, depth in zip(view.shadow_angles, view.shadow_levels, strict=True):
        beam -= _F(depth) * np.exp(-(((angle - _F(centre)) * _F(1.0 / 0.09)) ** 2))
    return beam


def _sector(x_HW: np.ndarray, y_HW: np.ndarray, view: View, pixel: float) -> np.ndarray:
    """Share of each pixel inside the sector, 0..1 (H, W)."""
    radius = np.sqrt(x_HW * x_HW + y_HW * y_HW)
    off = np.abs(x_HW) * _F(math.cos(view.half_angle)) - y_HW * _F(math.sin(view.half_angle))
    outside = np.maximum(np.maximum(off, radius - _F(view.depth)), _F(3.0) - radius)
    return np.clip(_F(0.5) - outside * _F(1.0 / pixel), 0.0, 1.0)
