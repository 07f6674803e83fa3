"""Pixels and frames as an image or video tower takes them.

Legend: N frames or windows, T frames, L frames of a window, H rows, W columns, S side of a tower's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F


def prepare_frames(frames_NHW: torch.Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Grey frames, uint8 (N, H, W), as float32 (N, 3, S, S): open_clip's own preprocessing for evaluation.

    The shorter side is resized to S (bicubic, antialiased), the middle is cut out, channels of 0..1 are normalised.
    Grey goes into all three channels.
    """
    x = frames_NHW[:, None].float()
    H, W = x.shape[-2:]
    scale = side / min(H, W)
    size = (max(side, round(H * scale)), max(side, round(W * scale)))
    if size != (H, W):
        x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
        x = x.round().clamp(0, 255)  # open_clip resizes 8-bit images
    return normalise(middle(x, side, side) / 255.0, mean, std)


def middle(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of images (..., H, W)."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def normalise(x_N1HW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Grey images as three normalised channels, (N, 3, H, W)."""
    centre, spread = (torch.tensor(tuple(values), device=x_N1HW.device).view(1, -1, 1, 1) for values in (mean, std))
    return (x_N1HW - centre) / spread


def windows(num_frames: int, length: int) -> np.ndarray:
    """Numbers of the frames of windows that cover a video, int (N, L); the last one ends with the video.

    A video that is shorter repeats its last frame.
    """
    starts = np.minimum(np.arange(0, num_frames, length), max(0, num_frames - length))
    return np.minimum(starts[:, None] + np.arange(length), num_frames - 1)


def window_of_frame(num_frames: int, length: int) -> np.ndarray:
    """The number of each frame's window of `windows`, int (T,): the last one that holds it."""
    held = windows(num_frames, length)
    found = np.zeros(num_frames, int)
    for number, frames in enumerate(held):
        found[frames] = number
    return found
