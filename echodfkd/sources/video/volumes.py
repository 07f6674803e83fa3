"""Read image volumes of two formats without trust: NIfTI (.nii, .nii.gz) and MetaImage (.mhd with .raw or .zraw).

A header may promise any shape, and a few compressed bytes may stand for any number: sizes are checked before anything
of that size is allocated, and no more is decompressed than the header's shape needs. NIfTI is read by nibabel (extra
`[medical]`); MetaImage headers are lines of ``key = value`` (ITK's documentation has the keys).

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.container import MAX_FRAME_PIXELS, MAX_VIDEO_BYTES

MAX_VOLUME_HEADER_BYTES = 1 << 16
_MAX_EXTRA_BYTES = 1 << 20
"""NIfTI's header and extensions beside the pixels."""
_ROUNDING = 1e-3
"""Farthest that a stored number may lie from its whole number: a slope in the header rounds."""
_GZIP = 31
"""zlib's window bits for a gzip stream."""

_ELEMENT_TYPES = {
    "MET_UCHAR": "u1",
    "MET_CHAR": "i1",
    "MET_USHORT": "u2",
    "MET_SHORT": "i2",
    "MET_UINT": "u4",
    "MET_INT": "i4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


@dataclass(frozen=True)
class Volume:
    """``values`` uint8 (T, H, W); ``spacing_mm`` is the height and width of a pixel in millimetres."""

    values: np.ndarray
    spacing_mm: tuple[float, float]


def read_nifti(data: bytes, name: str) -> Volume:
    """One image or a stack of frames. The file's axes are columns, rows and frames, as CAMUS has them.

    Args:
        data: the file's content; gzip is recognised by its first bytes.
        name: of the file, for errors.

    Raises:
        InputError: nibabel is not installed.
        ClipError: it is not a NIfTI file of version 1 or 2 with its pixels in it, is damaged or too large, or holds
            values that are not 8-bit grey or labels.
    """
    try:
        import nibabel
    except ImportError as error:
        raise InputError("reading NIfTI needs nibabel: pip install 'echodfkd[medical]'") from error
    compressed = data[:2] == b"\x1f\x8b"
    head = _inflate(data, _GZIP, MAX_VOLUME_HEADER_BYTES, name) if compressed else data[:MAX_VOLUME_HEADER_BYTES]
    is_second = head[4:8] == b"n+2\0"
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        raise ClipError(f"{name} is a NIfTI header whose pixels lie in another file (.img); expected both in one .nii")
    kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
    try:
        header = kind.header_class(head[: 540 if is_second else 348], check=False)  # its length, by the format
        shape, item = header.get_data_shape(), header.get_data_dtype().itemsize
        zooms, offset = [float(zoom) for zoom in header.get_zooms()], float(header["vox_offset"])
    except Exception as error:  # nibabel's and numpy's errors on damaged headers are not documented
        raise ClipError(f"{name} is not a readable NIfTI file ({type(error).__name__})") from error
    sizes = [int(size) for size in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) not in (2, 3):
        raise ClipError(f"{name} has {len(sizes)} axes, expected columns, rows and at most one more for frames")
    width, height, frames = (*sizes, 1)[:3]
    _check_shape(frames, height, width, name)
    if not (math.isfinite(offset) and 0 <= offset <= _MAX_EXTRA_BYTES):
        raise ClipError(f"{name} has its pixels at byte {offset:g}, expected 352 or soon after")
    limit = int(offset) + frames * height * width * item
    raw = _inflate(data, _GZIP, limit, name) if compressed else data
    if len(raw) < limit:
        raise ClipError(f"{name} holds {len(raw)} bytes, its header promises {limit}")
    try:
        image = kind.from_bytes(raw)
        values = np.asanyarray(image.dataobj).reshape(width, height, frames)
    except Exception as error:
        raise ClipError(f"{name} holds pixels that cannot be read ({type(error).__name__})") from error
    return Volume(_as_uint8(values.transpose(2, 1, 0), name), _check_spacing(zooms[1], zooms[0], name))


def read_metaimage(header: bytes, read_data: Callable[[str], bytes], name: str) -> Volume:
    """One image or a stack of frames.

    Args:
        header: content of the .mhd file.
        read_data: gives the content of the file beside it that holds the pixels, by its plain name.
        name: of the header's file, for errors.

    Raises:
        ClipError: it is not such a header, is of an unsupported kind, or does not fit the pixels.
        OSError: from ``read_data``.
    """
    fields = _header_fields(header, name)
    sizes = _numbers(fields, "DimSize", name)
    if len(sizes) not in (2, 3) or any(size != int(size) for size in sizes):
        raise ClipError(f"{name}: DimSize is {fields['DimSize']!r}, expected columns, rows and at most one more")
    if fields.get("NDims", str(len(sizes))) != str(len(sizes)):
        raise ClipError(f"{name}: NDims is {fields['NDims']!r}, but DimSize has {len(sizes)} numbers")
    width, height, frames = (*(int(size) for size in sizes), 1)[:3]
    _check_shape(frames, height, width, name)
    kind = fields.get("ElementType", "")
    if kind not in _ELEMENT_TYPES:
        raise ClipError(f"{name}: ElementType is {kind!r}, expected one of {', '.join(_ELEMENT_TYPES)}")
    for key, wanted in (("ElementNumberOfChannels", "1"), ("HeaderSize", "0"), ("ObjectType", "Image")):
        if fields.get(key, wanted) != wanted:
            raise ClipError(f"{name}: {key} is {fields[key]!r}, expected {wanted}")
    file = fields.get("ElementDataFile", "")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.z?raw", file):
        raise ClipError(f"{name}: ElementDataFile is {file[:80]!r}, expected the plain name of a .raw or .zraw file")
    big = _truth(fields, "BinaryDataByteOrderMSB", name) or _truth(fields, "ElementByteOrderMSB", name)
    dtype = np.dtype((">" if big else "<") + _ELEMENT_TYPES[kind])
    wanted_bytes = frames * height * width * dtype.itemsize
    data = read_data(file)
    if _truth(fields, "CompressedData", name):
        data = _inflate(data, zlib.MAX_WBITS, wanted_bytes + 1, file)
    if len(data) != wanted_bytes:
        raise ClipError(f"{file} holds {len(data)} bytes of pixels or more, {name} promises {wanted_bytes}")
    values = np.frombuffer(data, dtype).reshape(frames, height, width)
    across, down = (_numbers(fields, "ElementSpacing", name) if "ElementSpacing" in fields else [1.0, 1.0])[:2]
    return Volume(_as_uint8(values, name), _check_spacing(down, across, name))


def _header_fields(header: bytes, name: str) -> dict[str, str]:
    if len(header) > MAX_VOLUME_HEADER_BYTES:
        raise ClipError(f"{name} has {len(header)} bytes, a MetaImage header may have {MAX_VOLUME_HEADER_BYTES}")
    fields: dict[str, str] = {}
    for line in header.decode("latin-1").splitlines():
        key, separator, value = line.partition("=")
        if not line.strip():
            continue
        if not separator or not key.strip().isidentifier() or key.strip() in fields or not value.isprintable():
            raise ClipError(f"{name} is not a MetaImage header: {line[:60]!r} is no new `key = value`")
        fields[key.strip()] = value.strip()
    if "DimSize" not in fields:
        raise ClipError(f"{name} is not a MetaImage header: it has no DimSize")
    return fields


def _numbers(fields: dict[str, str], key: str, name: str) -> list[float]:
    try:
        numbers = [float(text) for text in fields[key].split()]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or not all(math.isfinite(number) and 0 < number < 1 << 31 for number in numbers):
        raise ClipError(f"{name}: {key} is {fields[key][:80]!r}, expected numbers above 0")
    return numbers


def _truth(fields: dict[str, str], key: str, name: str) -> bool:
    value = fields.get(key, "False").lower()
    if value not in ("true", "false"):
        raise ClipError(f"{name}: {key} is {value[:80]!r}, expected True or False")
    return value == "true"


def _check_shape(frames: int, height: int, width: int, name: str) -> None:
    if min(frames, height, width) < 1:
        raise ClipError(f"{name} promises {frames} frames of {width} x {height} pixels, which is nothing")
    if height * width > MAX_FRAME_PIXELS or frames * height * width > MAX_VIDEO_BYTES:
        raise ClipError(
            f"{name} promises {frames} frames of {width} x {height} pixels, allowed are {MAX_FRAME_PIXELS} pixels in a"
            f" frame and {MAX_VIDEO_BYTES} in a file"
        )


def _check_spacing(down: float, across: float, name: str) -> tuple[float, float]:
    """Refuse pixel sizes that no ultrasound image has. Raises `ClipError`."""
    if not all(math.isfinite(side) and 1e-3 <= side <= 10.0 for side in (down, across)):
        raise ClipError(f"{name} has pixels of {across:g} x {down:g} mm, expected 0.001 .. 10")
    return down, across


def _as_uint8(values: np.ndarray, name: str) -> np.ndarray:
    """Convert 8-bit values stored in any numeric type. Raises `ClipError`."""
    if values.dtype.kind not in "uif":
        raise ClipError(f"{name} stores values of type {values.dtype}, expected numbers")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
        raise ClipError(f"{name} holds values outside of 0 .. 255, expected 8-bit grey or labels")
    whole = np.rint(values)
    if values.dtype.kind == "f" and (apart := np.abs(values - whole)).max() > _ROUNDING:
        raise ClipError(
            f"{name} holds the value {values.flat[apart.argmax()]:.4g}, expected whole grey levels of 0 .. 255 or"
            f" labels: its values ({values.min():.4g} .. {values.max():.4g}) were scaled or interpolated"
        )
    return whole.astype(np.uint8)


def _inflate(data: bytes, window_bits: int, limit: int, name: str) -> bytes:
    """Decompress at most ``limit`` bytes. Raises `ClipError`."""
    inflater: Any = zlib.decompressobj(window_bits)
    try:
        return inflater.decompress(data, limit)
    except zlib.error as error:
        raise ClipError(f"{name} is damaged: its compressed pixels cannot be inflated") from error
