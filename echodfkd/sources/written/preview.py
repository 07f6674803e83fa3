"""Previews of stored clips: one picture and one short video of many clips side by side, with the truth's contour.

Legend: T frames, H rows, W columns of a clip, h rows and w columns of a tile.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from echodfkd.core.records import VideoClip
from echodfkd.metrics.surface import border
from echodfkd.sources.video.encode import encode_mp4
from echodfkd.sources.video.sheets import in_rows, png, titled

TILE_PX = 160
"""A tile is enlarged by the largest whole number that keeps it within this width, at least 1."""

MAX_FRAMES = 96
"""Longest preview video: at 672 x 448 pixels its frames are 87 MB while they are encoded."""

_CONTOUR = (230, 159, 0)


def preview_sheet(clips: Sequence[VideoClip]) -> bytes:
    """A PNG with one frame of every clip (its first end-diastole, else its first frame) and the truth's contour."""
    return png(_grid(clips, [clip.ed_frames[0] if clip.ed_frames else 0 for clip in clips]))


def animated_preview(clips: Sequence[VideoClip]) -> bytes:
    """An MP4 of all clips at once, frame by frame, at their median frame rate; shorter clips repeat."""
    num_frames = min(MAX_FRAMES, max(len(clip.video) for clip in clips))
    fps = statistics.median(clip.fps for clip in clips)
    grids = [_grid(clips, [frame % len(clip.video) for clip in clips]) for frame in range(num_frames)]
    return encode_mp4(np.stack(grids), fps)


def _grid(clips: Sequence[VideoClip], frames: Sequence[int]) -> np.ndarray:
    """Tiles side by side, about half as many rows as columns: uint8 (rows * h, columns * w, 3)."""
    tiles = [_tile(clip, frame) for clip, frame in zip(clips, frames, strict=True)]
    return in_rows(tiles, columns=int(np.ceil(np.sqrt(1.5 * len(tiles)))))


def _tile(clip: VideoClip, frame: int) -> np.ndarray:
    """One frame with its contour, under its conditions: uint8 (h, w, 3)."""
    scale = max(1, TILE_PX // clip.video.shape[2])
    grey = np.kron(clip.video[frame], np.ones((scale, scale), np.uint8))
    image = np.repeat(grey[..., None], 3, axis=-1)
    if clip.truth_labels is not None:
        image[border(np.kron(clip.truth_labels[frame] == 1, np.ones((scale, scale), bool)))] = _CONTOUR
    known = clip.conditions
    words = [str(clip.index)]
    words += [f"EF {known.ef_percent:.0f}"] if known.ef_percent is not None else []
    words += [f"{known.heart_rate_bpm:.0f}/min"] if known.heart_rate_bpm is not None else []
    words += [f"q {known.image_quality:.1f}"] if known.image_quality is not None else []
    return titled(image, "  ".join(words))
