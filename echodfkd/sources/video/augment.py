"""Augment clips on the fly: geometry without flips, gain, gamma, multiplicative speckle, crop and cone.

Every draw is a hash of (seed, clip index, epoch) and a name, not taken from a shared stream, so that a clip gets the
same augmentation on any worker, in any order and after any restart. There are no flips: the heart is not symmetric.

Legend: T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.config.sections.augment import AugmentConfig

CONE_HALF_ANGLE_DEG = (30.0, 45.0)
CONE_DEPTH = (0.85, 1.0)
"""Sectors of `AugmentConfig.cone`: half the opening angle, and the radius as a share of the height; uniform."""


def augment_clip(
    video_THW: np.ndarray,
    prob_TCHW: np.ndarray | None,
    options: AugmentConfig,
    *,
    seed: int,
    index: int,
    epoch: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Augment a clip and its soft masks alike.

    Grey levels first (gamma, gain, speckle), then one bilinear resampling for all of the geometry, then the cone.
    Pixels from outside the frame are black, with probability 0. Strengths of 0 leave every bit as it is.

    Args:
        video_THW: uint8.
        prob_TCHW: float32 probabilities, or None if there are none yet.
        options: strengths.
        seed: of the run.
        index: of the clip.
        epoch: of the clip.

    Returns:
        uint8 (T, H, W) and float32 (T, C, H, W), or None.
    """
    if not options.is_on:
        return video_THW, prob_TCHW
    draw = _Draws(f"{seed}/augment/{index}/{epoch}")
    H, W = video_THW.shape[1:]
    frames = torch.from_numpy(_grey_levels(video_THW, options, draw))[:, None]
    masks = None if prob_TCHW is None else torch.from_numpy(np.ascontiguousarray(prob_TCHW, np.float32))
    if any((options.rotate_deg, options.scale, options.shift, options.crop)):
        grid = _grid(_output_to_input(options, draw, (H, W)), (H, W))
        frames, masks = _resample(frames, grid), None if masks is None else _resample(masks, grid)
    if draw.uniform("cone", 0, 1) < options.cone:
        sector = _sector(draw, (H, W))
        frames, masks = frames * sector, None if masks is None else masks * sector
    video = frames[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return video, None if masks is None else masks.clamp(0, 1).numpy()


class _Draws:
    def __init__(self, key: str) -> None:
        self._key = key

    def word(self, name: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self._key}/{name}".encode(), digest_size=8).digest(), "little")

    def uniform(self, name: str, low: float, high: float) -> float:
        return low + (high - low) * (self.word(name) / 2.0**64)


def _grey_levels(video_THW: np.ndarray, options: AugmentConfig, draw: _Draws) -> np.ndarray:
    """float32, 0..255, not yet rounded."""
    grey: np.ndarray = video_THW.astype(np.float32)
    if options.gamma:
        grey = 255 * (grey / 255) ** np.float32(math.exp(draw.uniform("gamma", -options.gamma, options.gamma)))
    if options.gain:
        grey = grey * np.float32(draw.uniform("gain", 1 - options.gain, 1 + options.gain))
    if options.speckle:
        noise = np.random.Generator(np.random.Philox(key=draw.word("speckle"))).standard_normal(grey.shape, np.float32)
        grey = grey * (1 + np.float32(options.speckle) * noise)
    return np.clip(grey, 0, 255)


def _output_to_input(options: AugmentConfig, draw: _Draws, size: tuple[int, int]) -> np.ndarray:
    """(2, 3): affine map from a pixel of the result to the input, both as (row, column) from the frame's centre.

    The frame is rotated by the angle (counter-clockwise on screen), enlarged and shifted; then the crop is cut out.
    """
    angle = math.radians(draw.uniform("rotate", -options.rotate_deg, options.rotate_deg))
    zoom = draw.uniform("scale", 1 - options.scale, 1 + options.scale)
    side = 1 - draw.uniform("crop", 0, options.crop)
    sides = np.array(size, np.float64)
    moved = np.array([draw.uniform(f"shift_{axis}", -options.shift, options.shift) for axis in "yx"]) * sides
    cut = np.array([draw.uniform(f"crop_{axis}", -0.5, 0.5) for axis in "yx"]) * (1 - side) * sides
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / zoom
    return np.concatenate([turn * side, (turn @ (cut - moved))[:, None]], axis=1)


def _grid(matrix: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """float32 (1, H, W, 2) for `grid_sample`: (x, y), with the frame's edges at -1 and 1."""
    H, W = size
    rows, columns = np.mgrid[:H, :W]
    centred = np.stack([rows + 0.5 - H / 2, columns + 0.5 - W / 2, np.ones((H, W))])
    y, x = np.tensordot(matrix, centred, axes=1)
    return torch.from_numpy(np.stack([2 * x / W, 2 * y / H], axis=-1).astype(np.float32))[None]


def _resample(images_TCHW: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    grid = grid.expand(len(images_TCHW), -1, -1, -1)
    return F.grid_sample(images_TCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sector(draw: _Draws, size: tuple[int, int]) -> torch.Tensor:
    """float32 (H, W): 1 inside of the cone, 0 outside."""
    H, W = size
    angle = math.radians(draw.uniform("cone_angle", *CONE_HALF_ANGLE_DEG))
    depth = draw.uniform("cone_depth", *CONE_DEPTH) * H
    rows, columns = np.mgrid[:H, :W]
    down, aside = rows + 0.5, np.abs(columns + 0.5 - W / 2)
    return torch.from_numpy(((aside <= down * math.tan(angle)) & (np.hypot(down, aside) <= depth)).astype(np.float32))
