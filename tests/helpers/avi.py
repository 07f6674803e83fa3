"""AVI files written by hand, as programs without FFmpeg write them (AVI RIFF file reference; BITMAPINFOHEADER)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
"""Palette (256, 3) in which number n is the grey level n."""


def dib_chunks(pixels: np.ndarray, *, top_down: bool = False) -> list[bytes]:
    """Frames of numbers (T, H, W) or of blue, green, red (T, H, W, C) as bitmaps: the last row first."""
    rows = pixels.reshape(*pixels.shape[:2], -1)
    padded = np.pad(rows, ((0, 0), (0, 0), (0, -rows.shape[2] % 4)))
    return [frame[:: 1 if top_down else -1].tobytes() for frame in padded]


def rle8_chunks(pixels: np.ndarray) -> list[bytes]:
    """Frames of numbers (T, H, W) in BI_RLE8: the first whole, of the others only the rows that changed."""
    chunks, before = [], np.full_like(pixels[0], 255) ^ pixels[0]
    for frame in pixels:
        chunk = b""
        skipped = 0
        for row, old in zip(frame[::-1], before[::-1], strict=True):
            if np.array_equal(row, old):
                skipped += 1
                continue
            chunk += bytes((0, 2, 0, skipped)) if skipped else b""
            skipped = 0
            chunk += b"".join(bytes((1, value)) for value in row.tolist()) + bytes((0, 0))
        chunks.append(chunk + bytes((0, 1)))
        before = frame
    return chunks


def palette_change(palette: np.ndarray) -> bytes:
    """Content of an ``xxpc`` chunk that sets all 256 colours from here on; red, green, blue, flags each."""
    return struct.pack("<BBH", 0, 0, 0) + np.pad(palette, ((0, 0), (0, 1))).tobytes()


def avi_bytes(
    chunks: Sequence[bytes],
    height: int,
    width: int,
    bits: int,
    *,
    palette: np.ndarray | None = None,
    top_down: bool = False,
    codec: bytes = b"\0\0\0\0",
    compression: int = 0,
    rate: tuple[int, int] = (1, 50),
    microseconds: int = 20_000,
    changes: dict[int, bytes] | None = None,
    index: bool = True,
) -> bytes:
    """A file of these chunks, one a frame.

    Args:
        chunks: content of the frames; an empty one repeats the frame before.
        height: of the frames.
        width: of the frames.
        bits: a pixel.
        palette: uint8 (256, 3), red, green, blue.
        top_down: whether the first row comes first, for which the format has a negative height.
        codec: the stream's handler.
        compression: biCompression, 1 for BI_RLE8; ``codec`` as a number for a four-character code.
        rate: dwScale and dwRate.
        microseconds: dwMicroSecPerFrame.
        changes: frame -> content of an ``xxpc`` chunk before it.
        index: whether there is an idx1.
    """
    colours = 0 if palette is None else len(palette)
    main = (microseconds, 0, 0, 0x10 if index else 0, len(chunks), 0, 1, 0, width, height, 0, 0, 0, 0)
    stream = struct.pack("<4s4sIHHIIIIIIII4H", b"vids", codec, 0x10000 if changes else 0, 0, 0, 0, *rate, 0,
                         len(chunks), 0, 0xFFFFFFFF, 0, 0, 0, width, height)  # fmt: skip
    bitmap = struct.pack("<IiiHHIIiiII", 40, width, -height if top_down else height, 1, bits, compression, 0, 0, 0,
                         colours, 0)  # fmt: skip
    if palette is not None:
        bitmap += np.pad(palette[:, ::-1], ((0, 0), (0, 1))).tobytes()  # blue, green, red, 0
    movie, entries = b"movi", b""
    for number, chunk in enumerate(chunks):
        for tag, content in ((b"00pc", (changes or {}).get(number)), (b"00db", chunk)):
            if content is not None:
                entries += struct.pack("<4sIII", tag, 0x10 if tag == b"00db" else 0x100, len(movie), len(content))
                movie += _chunk(tag, content)
    header = b"hdrl" + _chunk(b"avih", struct.pack("<14I", *main))
    header += _chunk(b"LIST", b"strl" + _chunk(b"strh", stream) + _chunk(b"strf", bitmap))
    body = b"AVI " + _chunk(b"LIST", header) + _chunk(b"LIST", movie) + (_chunk(b"idx1", entries) if index else b"")
    return _chunk(b"RIFF", body)


def _chunk(tag: bytes, content: bytes) -> bytes:
    return tag + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
