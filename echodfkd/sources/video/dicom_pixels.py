"""Decode the pixels of a DICOM file to grey frames, after its description is held against its bytes.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.container import MAX_FRAME_PIXELS, MAX_VIDEO_BYTES
from echodfkd.sources.video.dicom_elements import number_of, value_of
from echodfkd.sources.video.dicom_grey import LEAST_SHARE, LUMA, grey_table, has_window
from echodfkd.sources.video.jpeg import segments

_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422")
_JPEG_2000 = ("YBR_RCT", "YBR_ICT")
"""Colours that a JPEG 2000 decoder turns into RGB."""
_JPEG_8_BITS, _JPEG_12_BITS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_JPEG_FAMILY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))
_JPEG_2000_FAMILY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
_RLE = "1.2.840.10008.1.2.5"
_FRAME_HEADERS = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
"""JPEG's markers of a frame header; the last one is that of JPEG-LS (ITU-T T.81, B.1.1.3; T.87, C.1.1)."""
_SIZ = b"\xff\x4f\xff\x51"
"""How a JPEG 2000 codestream begins: with the sizes of its picture (ITU-T T.800, A.5.1)."""


@dataclass(frozen=True)
class Pixels:
    """What a file says of its pixels."""

    shape: tuple[int, int, int]
    photometric: str
    samples: int
    planar: bool
    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame without compression and with all its samples."""
        return self.shape[1] * self.shape[2] * self.samples * self.allocated // 8


def describe(dataset: Any, syntax: Any, name: str) -> Pixels:
    """Check what a file says of its pixels, before anything of that size is allocated.

    Raises:
        ClipError: no image, too large, a transfer syntax, colour model or number of bits that is not read.
    """
    shape = _shape(dataset, name)
    _check_syntax(syntax, name)
    photometric = str(value_of(dataset, "PhotometricInterpretation") or "")
    known = (*_GREY, *_COLOUR, *(_JPEG_2000 if syntax in _JPEG_2000_FAMILY else ()))
    if photometric not in known:
        shown = photometric if photometric in (*_JPEG_2000, "HSV", "ARGB", "CMYK", "YBR_PARTIAL_420") else "another one"
        raise ClipError(f"{name} has the photometric interpretation {shown}; expected one of {', '.join(known)}")
    numbers = {
        key: number_of(dataset, key)
        for key in ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PlanarConfiguration")
    }
    samples, allocated, stored = (
        int(numbers[key] or 0) for key in ("SamplesPerPixel", "BitsAllocated", "BitsStored")
    )  # fmt: skip
    high = stored - 1 if numbers["HighBit"] is None else int(numbers["HighBit"])
    signed = number_of(dataset, "PixelRepresentation") == 1
    if samples != (1 if photometric in _GREY else 3):
        raise ClipError(f"{name} has {samples} samples a pixel as {photometric}; expected 1 of grey or 3 of colour")
    fits = 1 <= stored <= allocated and stored - 1 <= high < allocated and allocated in (8, 16)
    if not fits or (samples == 3 and (allocated, stored, signed) != (8, 8, False)):
        raise ClipError(
            f"{name} stores {stored} of {allocated} bits a sample as {photometric}, highest bit {high};"
            " expected up to 16 of grey or 8 of colour"
        )
    planar = samples == 3 and numbers["PlanarConfiguration"] == 1
    return Pixels(shape, photometric, samples, planar, allocated, stored, high, signed)


def grey_frames(dataset: Any, syntax: Any, pixels: Pixels, name: str, warnings: list[str]) -> Iterator[np.ndarray]:
    """The frames as uint8 (H, W).

    Args:
        dataset: pydicom's data set.
        syntax: its transfer syntax.
        pixels: from `describe`.
        name: of the file in errors.
        warnings: ends of sentences are added here.

    Raises:
        ClipError: the bytes are not those of the description, damaged, or so dark that a window is missing.
    """
    frames = _compressed if syntax.is_compressed else _plain
    stored, brightest, table = pixels.stored, 0, None
    for frame, photometric, bits in frames(dataset, syntax, pixels, name, warnings):
        if frame.ndim == 2:
            if table is None:
                stored = min(stored, bits)
                table = grey_table(dataset, stored, pixels.signed, name)
            values = frame.astype(np.int64) & ((1 << stored) - 1)
            brightest = max(brightest, int(values.max()))
            yield table[values]
        elif photometric == "RGB":
            yield np.rint(frame.astype(np.float32) @ LUMA).astype(np.uint8)
        else:
            yield np.ascontiguousarray(frame[..., 0])
    bare = pixels.photometric != "PALETTE COLOR" and not has_window(dataset) and not pixels.signed
    if table is not None and stored > 8 and bare and 0 < brightest < LEAST_SHARE * (1 << stored):
        raise ClipError(
            f"{name} stores {stored} bits a sample, but its brightest pixel is {brightest}, and no window says how to"
            " show it"
        )


def _shape(dataset: Any, name: str) -> tuple[int, int, int]:
    sizes = [number_of(dataset, key) for key in ("NumberOfFrames", "Rows", "Columns")]
    if value_of(dataset, "PixelData") is None or sizes[1] is None or sizes[2] is None:
        raise ClipError(f"{name} holds no image")
    frames, height, width = (1 if size is None else int(size) for size in sizes)
    if height < 1 or width < 1 or height * width > MAX_FRAME_PIXELS or frames * height * width > MAX_VIDEO_BYTES:
        raise ClipError(
            f"{name} promises {frames} frames of {width} x {height} pixels, allowed are {MAX_FRAME_PIXELS} pixels in a"
            f" frame and {MAX_VIDEO_BYTES} in a file"
        )
    return max(frames, 0), height, width


def _check_syntax(syntax: Any, name: str) -> None:
    from pydicom.pixels import get_decoder

    title = _syntax_title(syntax)
    if any(word in title for word in ("MPEG", "HEVC")):
        raise ClipError(f"{name} holds a video ({title}), which is not read inside of DICOM; extract it to an MP4 file")
    if syntax in (*_JPEG_FAMILY, *_JPEG_2000_FAMILY, _RLE):
        if not get_decoder(syntax).is_available:
            raise ClipError(f"{name} has the transfer syntax {title}, {_needed(syntax)}")
    elif not (syntax.is_transfer_syntax and not syntax.is_compressed and not syntax.is_deflated):
        raise ClipError(f"{name} has the transfer syntax {title}, which is not read")


def _needed(syntax: Any) -> str:
    from pydicom.pixels import get_decoder

    packages = [text.partition(" requires ")[2] for text in get_decoder(syntax).missing_dependencies]
    return "for which no decoder is installed: pip install " + ", or ".join(
        re.sub(r"^gdcm", "python-gdcm", text) for text in packages
    )


def _syntax_title(syntax: Any) -> str:
    """The registered name; an unregistered UID is not quoted, as it may hold anything."""
    return str(syntax.name) if syntax.name != str(syntax) else "(not registered)"


def _plain(
    dataset: Any, syntax: Any, pixels: Pixels, name: str, warnings: list[str]
) -> Iterator[tuple[np.ndarray, str, int]]:
    """Frames without compression (PS3.5, 8.1): (H, W) or (H, W, 3), their colour model and bits."""
    data = bytes(dataset.PixelData)
    (frames, height, width), size = pixels.shape, pixels.frame_bytes
    halved = pixels.photometric == "YBR_FULL_422"  # two pixels are Y, Y, Cb, Cr (PS3.3, C.7.6.3.1.2)
    if halved and len(data) // 2 != (frames * size + 1) // 2:
        size = size * 2 // 3
    elif halved:
        halved = False
        warnings.append("says YBR_FULL_422 and stores all colours of each pixel: read as YBR_FULL")
    if len(data) < frames * size or len(data) >= (frames + 1) * size or (halved and width % 2):
        raise ClipError(
            f"{name} has {len(data)} bytes of pixels, but {frames} frames of {width} x {height} as {pixels.photometric}"
            f" with {pixels.samples} x {pixels.allocated} bits are {frames * size}"
        )
    big = not syntax.is_little_endian
    if big and pixels.allocated == 8 and dataset["PixelData"].VR == "OW":  # bytes of words that were swapped
        data = np.frombuffer(data[: len(data) // 2 * 2], np.uint16).byteswap().tobytes()
    kind = np.dtype("u1" if pixels.allocated == 8 else ">u2" if big else "<u2")
    for number in range(frames):
        values = np.frombuffer(data, kind, size // kind.itemsize, number * size)
        if halved:
            yield values.reshape(height, width // 2, 4)[..., :2].reshape(height, width)[..., None], "YBR_FULL", 8
        elif pixels.planar:
            yield values.reshape(3, height, width).transpose(1, 2, 0), pixels.photometric, 8
        elif pixels.samples == 3:
            yield values.reshape(height, width, 3), pixels.photometric, 8
        else:
            yield values.reshape(height, width) >> (pixels.high + 1 - pixels.stored), pixels.photometric, pixels.stored


def _compressed(
    dataset: Any, syntax: Any, pixels: Pixels, name: str, warnings: list[str]
) -> Iterator[tuple[np.ndarray, str, int]]:
    """As `_plain`. Sizes inside the frames are checked before they are decoded."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder

    decoder, plugin = get_decoder(syntax), "pillow" if syntax == _JPEG_8_BITS else ""
    try:
        encoded = list(generate_frames(dataset.PixelData, number_of_frames=pixels.shape[0]))
    except Exception as error:  # pydicom's errors on damaged files are not documented, and may quote the file
        raise ClipError(f"{name} has pixels that cannot be decoded ({type(error).__name__})") from None
    facts = [_check_frame(frame, syntax, pixels, f"{name} has in frame {at}") for at, frame in enumerate(encoded)]
    if syntax == _JPEG_12_BITS and max(fact.bits for fact in facts) > 8 and decoder.available_plugins == ("pillow",):
        raise ClipError(f"{name} has JPEG frames of 12 bits a sample, {_needed(syntax)}")
    try:
        for at, (frame, found) in enumerate(decoder.iter_array(dataset, raw=True, decoding_plugin=plugin)):
            if at >= len(facts):
                break
            photometric = str(found["photometric_interpretation"])
            if facts[at].adobe_transform and plugin:  # Pillow turns these to RGB, and pydicom does not say so
                photometric = "RGB"
            yield frame, photometric, facts[at].bits
    except ClipError:
        raise
    except Exception as error:  # as above
        raise ClipError(f"{name} has pixels that cannot be decoded ({type(error).__name__})") from None


@dataclass(frozen=True)
class _Coded:
    """Bits a sample of a compressed frame, and whether its Adobe segment says that its colours were transformed."""

    bits: int
    adobe_transform: bool = False


def _check_frame(frame: bytes, syntax: Any, pixels: Pixels, what: str) -> _Coded:
    """Hold the sizes inside a compressed frame against those of the file. Raises `ClipError`."""
    if syntax == _RLE:
        _check_runs(frame, pixels, what)
        return _Coded(pixels.stored)
    sizes = _jpeg_2000_sizes(frame) if syntax in _JPEG_2000_FAMILY else _jpeg_sizes(frame)
    _, height, width = pixels.shape
    if sizes is None or sizes[:3] != (height, width, pixels.samples):
        seen = "no picture" if sizes is None else f"a picture of {sizes[1]} x {sizes[0]} pixels with {sizes[2]} colours"
        raise ClipError(f"{what} {seen}; expected {width} x {height} with {pixels.samples}, as it says elsewhere")
    head = takewhile(lambda segment: segment[0] != 0xDA, segments(frame))
    adobe = [content for marker, content in head if marker == 0xEE and content[:5] == b"Adobe"]
    return _Coded(sizes[3], bool(adobe) and len(adobe[0]) > 11 and adobe[0][11] == 1)


def _check_runs(frame: bytes, pixels: Pixels, what: str) -> None:
    """Hold the header of run lengths (PS3.5, G.5) against the file: a segment of a byte of each pixel for each byte."""
    plane, planes = pixels.shape[1] * pixels.shape[2], pixels.samples * pixels.allocated // 8
    count, *starts = struct.unpack_from("<16I", frame.ljust(64, b"\0"))
    if count != planes:
        raise ClipError(f"{what} run lengths of {count} bytes a pixel; expected {planes}, as it says elsewhere")
    # One byte in 128 says that the others follow as they are: twice the pixels is more than any honest writer needs.
    for start, stop in zip(starts, [*starts[1:planes], len(frame)], strict=False):
        if not start <= stop <= start + 2 * plane + 64:
            raise ClipError(f"{what} run lengths of {stop - start} bytes for {plane} pixels")


def _jpeg_sizes(frame: bytes) -> tuple[int, int, int, int] | None:
    """Height, width, number of colours and bits of a JPEG or JPEG-LS stream."""
    for marker, content in segments(frame):
        if marker in _FRAME_HEADERS and len(content) >= 6:
            bits, height, width, colours = struct.unpack_from(">BHHB", content)
            return height, width, colours, bits
    return None


def _jpeg_2000_sizes(frame: bytes) -> tuple[int, int, int, int] | None:
    """Height, width, number of colours and bits of a JPEG 2000 codestream."""
    at = frame.find(_SIZ)
    if at < 0 or len(frame) < at + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
    (colours,) = struct.unpack_from(">H", frame, at + 40)
    return bottom - top, right - left, colours, (frame[at + 42] & 0x7F) + 1
