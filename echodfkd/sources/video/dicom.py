"""Read an ultrasound cine from a DICOM file: pixels, rate and scale, without the patient's identity.

Legend: T frames, H rows, W columns, C colour channels.

Identifying data are dropped at decode: only the elements of `_ELEMENTS` are read from the file, only
numbers are returned, and no error or log line holds a value of the file or its name. Element names and units are those
of DICOM PS3.3 (ultrasound region calibration: C.8.5.5; cine: C.7.6.5).
"""

from __future__ import annotations

import hashlib
import hmac
import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.container import MAX_FRAME_PIXELS, MAX_VIDEO_BYTES

MIN_SALT = 16
"""Least number of characters of a salt: identifiers are guessable, the salt must not be."""

_ELEMENTS = (
    "SOPInstanceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "FrameTime",
    "CineRate",
    "RecommendedDisplayFrameRate",
    "SequenceOfUltrasoundRegions",
    "BurnedInAnnotation",
)
_GREY = ("MONOCHROME1", "MONOCHROME2")
_LUMA_FIRST = ("YBR_FULL", "YBR_FULL_422")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_TWO_DIMENSIONAL = 1  # Region Spatial Format
_CENTIMETRES = 3  # Physical Units X (Y) Direction
_MAX_REGIONS = 64


@dataclass(frozen=True)
class DicomCine:
    """One cine.

    ``clip_id`` is ``dicom-`` and 16 hex digits of a salted hash of the SOP instance UID: the same file and salt give
    the same id, and it cannot be reversed without the salt. It is None if no salt was given.
    ``video`` is uint8 (T, H, W), grey. ``fps`` is 0.0 if the
    file has none. ``spacing_mm`` is the side of a square pixel in millimetres, or None. ``may_show_text`` is
    true if the file says that annotations are burned into the pixels, or says nothing and has no ultrasound regions.
    Pixels outside the regions are 0 if there are regions. ``warnings`` are sentences for the user.
    """

    clip_id: str | None
    video: np.ndarray
    fps: float
    spacing_mm: float | None
    may_show_text: bool
    warnings: tuple[str, ...] = ()


def read_dicom(data: bytes, *, salt: str | None, name: str = "a DICOM file") -> DicomCine:
    """Read a multi-frame ultrasound file.

    Grey frames of up to 16 bits are scaled to 0..255 by their stored bits (MONOCHROME1 is inverted); colour is
    reduced to the luma of ITU-R BT.601. The rate is that of FrameTime, else CineRate, else RecommendedDisplayFrameRate.

    Args:
        data: the file's content.
        salt: a secret of at least `MIN_SALT` characters, the same for all files of a data set; None makes no id.
        name: of the file in errors; the default is neutral, as file names can hold patients' names.

    Raises:
        InputError: the salt is too short, or pydicom is not installed.
        ClipError: not such a file, a transfer syntax or colour model that is not read, damaged, or too large.
    """
    if salt is not None and len(salt) < MIN_SALT:
        raise InputError(f"the salt of pseudonyms has {len(salt)} characters, at least {MIN_SALT} are needed")
    with _quiet_pydicom():
        dataset, syntax = _read_elements(data, name)
        shape = _frame_shape(dataset, name)
        video = np.empty(shape, np.uint8)
        count = 0
        for count, frame in enumerate(_grey_frames(dataset, syntax, name), 1):
            if count > len(video) or frame.shape != video.shape[1:]:
                raise ClipError(f"{name} holds other frames than the {shape} that it promises")
            video[count - 1] = frame
        if count < len(video):
            raise ClipError(f"{name} has {count} readable frames, its NumberOfFrames is {len(video)}")
        regions = _regions(dataset, shape[1], shape[2])
        if regions:
            inside = np.zeros(shape[1:], bool)
            for region in regions:
                inside[region.rows, region.columns] = True
            video[:, ~inside] = 0
        burned_in = str(_value(dataset, "BurnedInAnnotation") or "").upper()
        may_show_text = burned_in == "YES" or (burned_in != "NO" and not regions)
        return DicomCine(
            clip_id=None if salt is None else _pseudonym(dataset, data, salt),
            video=video,
            fps=_frame_rate(dataset),
            spacing_mm=max(regions, key=lambda region: region.area).spacing_mm if regions else None,
            may_show_text=may_show_text,
            warnings=(f"{name} may show text burned into its pixels",) if may_show_text else (),
        )


@dataclass(frozen=True)
class _Region:
    """Part of the image that shows tissue, and the side of its pixels."""

    rows: slice
    columns: slice
    spacing_mm: float | None

    @property
    def area(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


def _read_elements(data: bytes, name: str) -> tuple[Any, Any]:
    """The elements in `_ELEMENTS`, and the transfer syntax's UID."""
    try:
        import pydicom
    except ImportError as error:
        raise InputError("reading DICOM needs pydicom: pip install 'echodfkd[medical]'") from error
    if _DEFLATED in data:  # it would be inflated whole, however large that is, before anything could be checked
        raise ClipError(f"{name} is deflated as a whole; this transfer syntax is not read")
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=list(_ELEMENTS))
        syntax = dataset.file_meta.TransferSyntaxUID
        syntax.name  # noqa: B018 a UID of another type fails here, not later
    except Exception as error:  # pydicom's errors on damaged files are not documented, and may quote the file
        raise ClipError(f"{name} is not a readable DICOM file ({type(error).__name__})") from None
    return dataset, syntax


def _frame_shape(dataset: Any, name: str) -> tuple[int, int, int]:
    """(T, H, W) that the file promises, checked before anything of that size is allocated."""
    sizes = [_number(dataset, key) for key in ("NumberOfFrames", "Rows", "Columns")]
    if _value(dataset, "PixelData") is None or sizes[1] is None or sizes[2] is None:
        raise ClipError(f"{name} holds no image")
    frames, height, width = (1 if size is None else int(size) for size in sizes)
    if frames < 2:
        raise ClipError(f"{name} holds {frames} frame; expected a cine of several")
    if height < 1 or width < 1 or height * width > MAX_FRAME_PIXELS or frames * height * width > MAX_VIDEO_BYTES:
        raise ClipError(
            f"{name} promises {frames} frames of {width} x {height} pixels, allowed are {MAX_FRAME_PIXELS} pixels in a"
            f" frame and {MAX_VIDEO_BYTES} in a file"
        )
    return frames, height, width


def _grey_frames(dataset: Any, syntax: Any, name: str) -> Iterator[np.ndarray]:
    """The frames as uint8 (H, W)."""
    from pydicom.pixels import get_decoder

    photometric = str(_value(dataset, "PhotometricInterpretation") or "")
    if photometric not in (*_GREY, *_LUMA_FIRST, "RGB"):
        known = (*_GREY, "RGB", *_LUMA_FIRST)
        shown = photometric if photometric in ("PALETTE COLOR", "HSV", "YBR_ICT", "YBR_RCT") else "another one"
        raise ClipError(f"{name} has the photometric interpretation {shown}; expected one of {', '.join(known)}")
    try:
        decoder = get_decoder(syntax)
        usable = decoder.is_available
    except Exception:
        usable = False
    if not usable:
        raise ClipError(f"{name} has the transfer syntax {_syntax_name(syntax)}, for which there is no decoder here")
    stored = int(_number(dataset, "BitsStored") or 0)
    signed = _number(dataset, "PixelRepresentation") == 1
    if not (1 <= stored <= 16 and (photometric in _GREY or (stored == 8 and not signed))):
        raise ClipError(f"{name} stores {stored} bits a sample as {photometric}; expected up to 16 grey or 8 colour")
    if photometric == "YBR_FULL_422" and not syntax.is_compressed:
        yield from _subsampled_luma(dataset, name)
        return
    try:
        for frame, facts in decoder.iter_array(dataset, raw=True):
            yield _to_grey(frame, str(facts["photometric_interpretation"]), stored, signed)
    except ClipError:
        raise
    except Exception as error:  # as above
        raise ClipError(f"{name} has pixels that cannot be decoded ({type(error).__name__})") from None


def _subsampled_luma(dataset: Any, name: str) -> Iterator[np.ndarray]:
    """Luma of uncompressed YBR_FULL_422: two pixels are Y, Y, Cb, Cr (PS3.3, C.7.6.3.1.2).

    pydicom 3.0.2 computes a wrong length for frames after the first: it ignores the subsampling.
    """
    frames, height, width = _frame_shape(dataset, name)
    data = np.frombuffer(bytes(dataset.PixelData), np.uint8)
    if width % 2 or len(data) < frames * height * width * 2:
        raise ClipError(f"{name} has {len(data)} bytes of pixels, too few for {frames} frames of {width} x {height}")
    pairs = data[: frames * height * width * 2].reshape(frames, height, width // 2, 4)
    for frame in pairs:
        yield frame[..., :2].reshape(height, width)


def _to_grey(frame: np.ndarray, photometric: str, stored: int, signed: bool) -> np.ndarray:
    """One frame (H, W) or (H, W, C) as uint8 (H, W)."""
    if frame.ndim == 2:
        most = (1 << stored) - 1
        values = frame.astype(np.float32) + ((1 << (stored - 1)) if signed else 0)
        grey = np.rint(np.clip(values, 0, most) * (255.0 / most))
        return (255 - grey if photometric == "MONOCHROME1" else grey).astype(np.uint8)
    if photometric == "RGB":
        return np.rint(frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
    return frame[..., 0].astype(np.uint8)


def _frame_rate(dataset: Any) -> float:
    frame_time = _number(dataset, "FrameTime")  # milliseconds
    rates = (1000.0 / frame_time if frame_time else None, _number(dataset, "CineRate"))
    for rate in (*rates, _number(dataset, "RecommendedDisplayFrameRate")):
        if rate is not None and 0 < rate < math.inf:
            return float(rate)
    return 0.0


def _regions(dataset: Any, height: int, width: int) -> list[_Region]:
    """Two-dimensional ultrasound regions that lie in the image."""
    found = []
    try:
        items = list(dataset.get("SequenceOfUltrasoundRegions") or ())[:_MAX_REGIONS]
    except Exception:
        return []
    for item in items:
        corners = [_number(item, f"RegionLocation{key}") for key in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if _number(item, "RegionSpatialFormat") != _TWO_DIMENSIONAL or any(corner is None for corner in corners):
            continue
        left, top, right, bottom = (int(corner) for corner in corners if corner is not None)
        left, top = max(left, 0), max(top, 0)
        right, bottom = min(right + 1, width), min(bottom + 1, height)  # the file's bounds include both corners
        if left < right and top < bottom:
            found.append(_Region(slice(top, bottom), slice(left, right), _spacing(item)))
    return found


def _spacing(region: Any) -> float | None:
    """Side of a region's pixels in millimetres; None if they are not square (to 1 %) or not in centimetres."""
    units = [_number(region, f"PhysicalUnits{axis}Direction") for axis in "XY"]
    sides = [abs(_number(region, f"PhysicalDelta{axis}") or 0.0) for axis in "XY"]
    if units != [_CENTIMETRES, _CENTIMETRES] or not 0 < min(sides) <= max(sides) <= 1.01 * min(sides):
        return None
    return 10.0 * sum(sides) / 2.0


def _pseudonym(dataset: Any, data: bytes, salt: str) -> str:
    uid = str(_value(dataset, "SOPInstanceUID") or "").encode() or hashlib.sha256(data).digest()
    return f"dicom-{hmac.new(salt.encode(), uid, hashlib.sha256).hexdigest()[:16]}"


def _value(dataset: Any, key: str) -> Any:
    """An element's value; None if it is absent, empty or unreadable."""
    try:
        value = dataset.get(key)
    except Exception:
        return None
    return None if value is None or (isinstance(value, str | bytes) and not value) else value


def _number(dataset: Any, key: str) -> float | None:
    """An element as a finite number; None if it is not one."""
    try:
        number = float(_value(dataset, key))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _syntax_name(syntax: Any) -> str:
    """The registered name; an unregistered UID is not quoted, as it may hold anything."""
    return str(syntax.name) if syntax.name != str(syntax) else "(not registered)"


@contextmanager
def _quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log, which quote values of the file."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
