"""Arithmetic on time and size: resampling to a frame rate, windows, permutations, resizing.

Legend: T frames, H rows, W columns.

A *position* is a time in units of frames: 2.5 is half way between frames 2 and 3. Video is interpolated linearly in
time, so that a moving wall moves evenly; the nearest frame would repeat and skip frames in a pattern (50 to 32 fps)
that a recurrent student can learn.

Every choice that looks random is a sha256 of its arguments: equal on every machine, in every process and
with every version of Python and numpy.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.records import TRUTH_UNKNOWN
from echodfkd.metrics.spacing import relative_sides


def resample_positions(num_frames: int, *, fps: float, target_fps: float, anchor: int = 0) -> np.ndarray:
    """Positions of all samples at ``target_fps`` that lie on the frames 0 .. num_frames - 1.

    Args:
        num_frames: frames there are, at least 1.
        fps: their rate, above 0.
        target_fps: the wanted rate; 0 keeps ``fps``.
        anchor: a frame that one sample falls on exactly.

    Returns:
        float64 (T',), ascending, ``fps / target_fps`` apart.
    """
    step = 1.0 if target_fps == 0 else fps / target_fps
    slack = 1e-9 * num_frames  # a last frame that is missed only by rounding counts
    before = int(np.floor((anchor + slack) / step))
    after = int(np.floor((num_frames - 1 - anchor + slack) / step))
    return np.clip(anchor + np.arange(-before, after + 1) * step, 0.0, num_frames - 1.0)


def sample_video(video_THW: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Frames at ``positions`` (float, 0 .. T - 1), linear in time, rounded: uint8 (len(positions), H, W)."""
    below = np.floor(positions).astype(np.int64)
    above = np.minimum(below + 1, len(video_THW) - 1)
    weight = (positions - below).astype(np.float32)[:, None, None]
    if not weight.any():
        return np.ascontiguousarray(video_THW[below])
    mixed = video_THW[below] * (1.0 - weight) + video_THW[above] * weight
    return np.rint(mixed).astype(np.uint8)


def window_start(seed: int, clip_id: str, epoch: int, num_frames: int, length: int) -> int:
    """First frame of the window of ``length`` frames that this epoch takes of a clip: 0 .. num_frames - length.

    Uniform but for a bias below num_frames / 2^64.
    """
    assert 0 < length <= num_frames, f"a window of {length} of {num_frames} frames"
    return _hash(f"window|{seed}|{clip_id}|{epoch}") % (num_frames - length + 1)


def permuted_index(seed: int, epoch: int, position: int, count: int) -> int:
    """Element ``position`` of this epoch's permutation of 0 .. count - 1, without building the others.

    A balanced Feistel network of four rounds permutes the next power of four; results of ``count`` and
    above are sent through it again until one falls below (cycle walking; Black and Rogaway, "Ciphers
    with arbitrary finite domains", CT-RSA 2002). On average that takes fewer than four passes.
    """
    assert 0 <= position < count, f"position {position} of {count}"
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        for turn in range(4):
            left, right = right, left ^ (_hash(f"permute|{seed}|{epoch}|{turn}|{right}") & mask)
        value = (left << half) | right
        if value < count:
            return value


def pad_to_square(frames_THW: np.ndarray, spacing_mm: tuple[float, float]) -> tuple[np.ndarray, float]:
    """Add rows or columns of zeros, the same on both sides, until frames are square in millimetres.

    Args:
        frames_THW: images or labels; labels of an unannotated frame (`TRUTH_UNKNOWN` everywhere) get unknown borders.
        spacing_mm: height and width of a pixel.

    Returns:
        The frames, square to half a pixel, and their side in millimetres.
    """
    _, H, W = frames_THW.shape
    sides = H * spacing_mm[0], W * spacing_mm[1]
    side = max(sides)
    rows, columns = (round((side - own) / step) for own, step in zip(sides, spacing_mm, strict=True))
    edges = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    padded = np.pad(frames_THW, edges)
    padded[(frames_THW == TRUTH_UNKNOWN).all(axis=(1, 2))] = TRUTH_UNKNOWN
    return padded, side


def aspect_note(aspect: float) -> tuple[str, ...]:
    """The end of a sentence about pixels ``aspect`` times as wide as high, if they are not square."""
    sides = relative_sides(aspect)
    if sides == 1.0:
        return ()
    fate = "of unknown lengths" if sides else "which cannot be: they are taken for square ones"
    return (f"has pixels {aspect:.3g} times as wide as high, {fate}",)


def resize_video(video_THW: np.ndarray, size: int) -> np.ndarray:
    """uint8 (T, H, W) to uint8 (T, size, size): bilinear, with antialiasing if it shrinks."""
    if video_THW.shape[1:] == (size, size):
        return video_THW
    frames = torch.tensor(np.ascontiguousarray(video_THW))[:, None].float()
    small = F.interpolate(frames, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return small[:, 0].round_().clamp_(0, 255).to(torch.uint8).numpy()


def resize_labels(labels_THW: np.ndarray, size: int) -> np.ndarray:
    """uint8 label maps (T, H, W) to (T, size, size): the pixel under each new pixel's centre."""
    if labels_THW.shape[1:] == (size, size):
        return labels_THW
    labels = torch.tensor(np.ascontiguousarray(labels_THW))[:, None]
    return F.interpolate(labels, size=(size, size), mode="nearest-exact")[:, 0].numpy()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
