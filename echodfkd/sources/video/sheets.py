"""Contact sheets: titled tiles arranged in rows, encoded as PNG.

Legend: h rows, w columns of a tile.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

TEXT_PX = 14
"""Rows above a tile for its line of text."""
_TEXT = (215, 215, 215)


def titled(tile: np.ndarray, words: str) -> np.ndarray:
    """A tile, uint8 (h, w, 3), under a line of text: uint8 (h + `TEXT_PX`, w, 3)."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (tile.shape[1], TEXT_PX))
    ImageDraw.Draw(strip).text((2, 1), words, fill=_TEXT)
    return np.concatenate([np.asarray(strip), tile])


def in_rows(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tiles, uint8 (h, w, 3) of any size, from left to right and down, on black: uint8 (rows * h, columns * w, 3)."""
    h, w = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    canvas = np.zeros((-(-len(tiles) // columns) * h, columns * w, 3), np.uint8)
    for position, tile in enumerate(tiles):
        top, left = position // columns * h, position % columns * w
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def png(picture: np.ndarray, *, colours: int = 0) -> bytes:
    """A picture, uint8 (h, w, 3), as PNG; with a palette of ``colours`` colours if above 0."""
    from PIL import Image

    image = Image.fromarray(picture)
    if colours:
        image = image.quantize(colours, dither=Image.Dither.NONE)
    sink = io.BytesIO()
    image.save(sink, format="PNG", optimize=True)
    return sink.getvalue()
