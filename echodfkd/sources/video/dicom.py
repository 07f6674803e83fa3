"""Read an ultrasound cine from a DICOM file: pixels, rate and scale, without the patient's identity.

Legend: T frames, H rows, W columns.

Identifying data are dropped at decode: only the elements of `ELEMENTS` are read from the file, only
numbers are returned, and no error or log line holds a value of the file or its name. Element names and units are those
of DICOM PS3.3 (ultrasound region calibration: C.8.5.5; cine: C.7.6.5; multi-frame: C.7.6.6).
"""

from __future__ import annotations

import hashlib
import hmac
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.metrics.spacing import Spacing
from echodfkd.sources.video.container import check_times
from echodfkd.sources.video.dicom_elements import number_of, numbers_of, quiet_pydicom, value_of
from echodfkd.sources.video.dicom_pixels import Pixels, describe, grey_frames
from echodfkd.sources.video.dicom_regions import find_picture

MIN_SALT = 16
"""Least number of characters of a salt: identifiers are guessable, the salt must not be."""

_PALETTES = tuple(
    f"{prefix}{colour}PaletteColorLookupTable{suffix}"
    for colour in ("Red", "Green", "Blue")
    for prefix, suffix in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
ELEMENTS = (
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
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "ModalityLUTSequence",
    "VOILUTSequence",
    *_PALETTES,
    "FrameIncrementPointer",
    "FrameTime",
    "FrameTimeVector",
    "CineRate",
    "RecommendedDisplayFrameRate",
    "PixelAspectRatio",
    "SequenceOfUltrasoundRegions",
    "UltrasoundColorDataPresent",
    "BurnedInAnnotation",
)
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_FRAME_TIME_VECTOR = 0x00181065
_AGREE = 0.05
"""Two rates of a file agree if they differ by less than this share: machines round to whole frames a second."""


@dataclass(frozen=True)
class DicomCine:
    """One cine.

    ``clip_id`` is ``dicom-`` and 16 hex digits of a salted hash of the SOP instance UID: the same file and salt give
    the same id, and it cannot be reversed without the salt. It is None if no salt was given. ``video`` is uint8
    (T, H, W), grey. ``fps`` is 0.0 if the file has none. ``spacing_mm`` is that of a pixel in millimetres,
    or None. ``may_show_text`` is true if the file says that annotations are burned into the pixels, or says nothing and
    has no ultrasound regions that fit its pixels. Pixels outside the regions are 0 if there are such regions.
    ``warnings`` are sentences for the user. ``pixel_aspect`` is the width of a pixel over its height.
    """

    clip_id: str | None
    video: np.ndarray
    fps: float
    spacing_mm: Spacing | None
    may_show_text: bool
    warnings: tuple[str, ...] = ()
    pixel_aspect: float = 1.0


def read_dicom(data: bytes, *, salt: str | None, name: str = "a DICOM file") -> DicomCine:
    """Read a multi-frame ultrasound file.

    Grey is shown as the file says: rescale, window, palette, MONOCHROME1. Without a window, stored values fill 0..255
    by their bits. Colour is reduced to the luma of ITU-R BT.601. For the rate see `_frame_rate`.

    Args:
        data: the file's content.
        salt: a secret of at least `MIN_SALT` characters, the same for all files of a data set; None makes no id.
        name: of the file in errors; the default is neutral, as file names can hold patients' names.

    Raises:
        InputError: the salt is too short, or pydicom is not installed.
        ClipError: not such a file, a transfer syntax or colour model that is not read, bytes that contradict their
            description, frames that are not evenly spaced in time, damaged, or too large.
    """
    if salt is not None and len(salt) < MIN_SALT:
        raise InputError(f"the salt of pseudonyms has {len(salt)} characters, at least {MIN_SALT} are needed")
    with quiet_pydicom():
        dataset, syntax = _read_elements(data, name)
        pixels = describe(dataset, syntax, name)
        said: list[str] = []
        fps = _frame_rate(dataset, pixels.shape[0], name, said)
        video = _video(dataset, syntax, pixels, name, said)
        picture = find_picture(dataset, video)
        if picture.inside is not None:
            video[:, ~picture.inside] = 0
        burned_in = str(value_of(dataset, "BurnedInAnnotation") or "").upper()
        may_show_text = burned_in == "YES" or (burned_in != "NO" and picture.inside is None)
        said += [*picture.warnings, *(["may show text burned into its pixels"] if may_show_text else [])]
        return DicomCine(
            clip_id=None if salt is None else _pseudonym(dataset, data, salt),
            video=video,
            fps=fps,
            spacing_mm=picture.spacing_mm,
            pixel_aspect=picture.pixel_aspect,
            may_show_text=may_show_text,
            warnings=tuple(f"{name} {text}" for text in said),
        )


def _read_elements(data: bytes, name: str) -> tuple[Any, Any]:
    """The elements in `ELEMENTS`, and the transfer syntax's UID."""
    try:
        import pydicom
    except ImportError as error:
        raise InputError("reading DICOM needs pydicom: pip install 'echodfkd[medical]'") from error
    if _DEFLATED in data:  # it would be inflated whole, however large that is, before anything could be checked
        raise ClipError(f"{name} is deflated as a whole; this transfer syntax is not read")
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=list(ELEMENTS))
        syntax = dataset.file_meta.TransferSyntaxUID
        syntax.name  # noqa: B018 a UID of another type fails here, not later
    except Exception as error:  # pydicom's errors on damaged files are not documented, and may quote the file
        raise ClipError(f"{name} is not a readable DICOM file ({type(error).__name__})") from None
    return dataset, syntax


def _video(dataset: Any, syntax: Any, pixels: Pixels, name: str, said: list[str]) -> np.ndarray:
    if pixels.shape[0] < 2:
        raise ClipError(f"{name} holds {pixels.shape[0]} frame; expected a cine of several")
    video = np.empty(pixels.shape, np.uint8)
    count = 0
    for count, frame in enumerate(grey_frames(dataset, syntax, pixels, name, said), 1):
        if count > len(video) or frame.shape != video.shape[1:]:
            raise ClipError(f"{name} holds other frames than the {pixels.shape} that it promises")
        video[count - 1] = frame
    if count < len(video):
        raise ClipError(f"{name} has {count} readable frames, its NumberOfFrames is {len(video)}")
    return video


def _frame_rate(dataset: Any, num_frames: int, name: str, said: list[str]) -> float:
    """Frames a second, 0.0 if the file has none.

    The element to which Frame Increment Pointer points comes first (C.7.6.6.1.1), then Frame Time, Frame Time Vector,
    Cine Rate and Recommended Display Frame Rate: the first two are times of recording, the others say how to play.

    Raises:
        ClipError: the times in Frame Time Vector are not evenly spaced.
    """
    vector = _vector_rate(dataset, num_frames, name, said)
    frame_time = number_of(dataset, "FrameTime")  # milliseconds
    times = ("Frame Time", 1000.0 / frame_time if frame_time else None), ("Frame Time Vector", vector)
    pointed = int(number_of(dataset, "FrameIncrementPointer") or 0) == _FRAME_TIME_VECTOR
    found = [
        *(reversed(times) if pointed else times),
        ("Cine Rate", number_of(dataset, "CineRate")),
        ("Recommended Display Frame Rate", number_of(dataset, "RecommendedDisplayFrameRate")),
    ]
    rates = [(title, rate) for title, rate in found if rate is not None and 0 < rate < float("inf")]
    if not rates:
        return 0.0
    title, rate = rates[0]
    for other, contrary in rates[1:-1] if rates[-1][0].startswith("Rec") else rates[1:]:
        if abs(contrary - rate) > _AGREE * rate:
            said.append(f"has {rate:.4g} frames a second by {title}, which is taken, and {contrary:.4g} by {other}")
    if title.startswith("Rec"):
        said.append(f"has no time of its frames; {rate:.4g} frames a second are those recommended for display")
    return float(rate)


def _vector_rate(dataset: Any, num_frames: int, name: str, said: list[str]) -> float | None:
    """Rate of Frame Time Vector: milliseconds from each frame to the one before, the first of which is 0."""
    steps = numbers_of(dataset, "FrameTimeVector", num_frames + 1)
    if not steps:
        return None
    if len(steps) != num_frames:
        said.append(f"has {num_frames} frames and another number of times in its Frame Time Vector, which is not taken")
        return None
    times = np.cumsum([0.0, *steps[1:]])
    if len(times) < 2 or times[-1] <= 0:
        return None
    check_times(name, times.tolist(), 1e-3, tick_s=1e-3)
    return 1000.0 * (len(times) - 1) / float(times[-1])


def _pseudonym(dataset: Any, data: bytes, salt: str) -> str:
    uid = str(value_of(dataset, "SOPInstanceUID") or "").encode() or hashlib.sha256(data).digest()
    return f"dicom-{hmac.new(salt.encode(), uid, hashlib.sha256).hexdigest()[:16]}"
