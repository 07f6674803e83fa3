"""A first look at stored clips: one picture and one short video of many clips side by side, truth drawn on them.

Legend: T frames, H rows, W columns of a clip, h rows and w columns of a tile.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence

import numpy as np

from echodfkd.records import VideoClip
from echodfkd.video.encode import encode_mp4

TILE_PX = 160
"""A tile is enlarged by the whole number that brings it nearest to this width from below, at least 1."""

TEXT_PX = 14
"""Rows above a tile that hold its line of text."""

MAX_FRAMES = 96
"""Longest preview video: at 672 x 448 pixels its frames are 87 MB while they are encoded."""

_CONTOUR = (230, 159, 0)
_TEXT = (200, 200, 200)


def preview_sheet(clips: Sequence[VideoClip]) -> bytes:
    """A PNG with one frame of every clip (its first end-diastole, else its first frame) and the truth's contour."""
    from PIL import Image

    frames = [clip.ed_frames[0] if clip.ed_frames else 0 for clip in clips]
    sink = io.BytesIO()
    Image.fromarray(_grid(clips, frames)).save(sink, format="PNG", optimize=True)
    return sink.getvalue()


def animated_preview(clips: Sequence[VideoClip]) -> bytes:
    """An MP4 of all clips at once, frame by frame, at their median frame rate; shorter clips begin again."""
    num_frames = min(MAX_FRAMES, max(len(clip.video) for clip in clips))
    fps = statistics.median(clip.fps for clip in clips)
    grids = [_grid(clips, [frame % len(clip.video) for clip in clips]) for frame in range(num_frames)]
    return encode_mp4(np.stack(grids), fps)


def _grid(clips: Sequence[VideoClip], frames: Sequence[int]) -> np.ndarray:
    """Tiles side by side, about half as many rows as columns: uint8 (rows * h, columns * w, 3)."""
    tiles = [_tile(clip, frame) for clip, frame in zip(clips, frames, strict=True)]
    columns = int(np.ceil(np.sqrt(1.5 * len(tiles))))
    rows = -(-len(tiles) // columns)
    h, w = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    canvas = np.zeros((rows * h, columns * w, 3), np.uint8)
    for position, tile in enumerate(tiles):
        top, left = position // columns * h, position % columns * w
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def _tile(clip: VideoClip, frame: int) -> np.ndarray:
    """One frame with its contour, under its conditions: uint8 (h, w, 3)."""
    from PIL import Image, ImageDraw

    scale = max(1, TILE_PX // clip.video.shape[2])
    grey = np.kron(clip.video[frame], np.ones((scale, scale), np.uint8))
    image = np.repeat(grey[..., None], 3, axis=-1)
    if clip.truth_labels is not None:
        inside = np.kron(clip.truth_labels[frame] == 1, np.ones((scale, scale), bool))
        image[_border(inside)] = _CONTOUR
    known = clip.conditions
    words = [str(clip.index)]
    words += [f"EF {known.ef_percent:.0f}"] if known.ef_percent is not None else []
    words += [f"{known.heart_rate_bpm:.0f}/min"] if known.heart_rate_bpm is not None else []
    words += [f"q {known.image_quality:.1f}"] if known.image_quality is not None else []
    strip = Image.new("RGB", (image.shape[1], TEXT_PX))
    ImageDraw.Draw(strip).text((2, 1), "  ".join(words), fill=_TEXT)
    return np.concatenate([np.asarray(strip), image])


def _border(inside: np.ndarray) -> np.ndarray:
    """Pixels of a bool (h, w) mask that touch its outside with an edge."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core
