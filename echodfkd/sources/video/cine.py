"""Read a cine of any supported kind from memory: an AVI or MP4 video, or a DICOM file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from echodfkd.metrics.spacing import Spacing, known_sides
from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.video.dicom import read_dicom
from echodfkd.sources.video.dicom_reference import DicomReference, read_reference
from echodfkd.sources.video.windows import aspect_note


@dataclass(frozen=True)
class Cine:
    """One cine.

    ``video`` is uint8 (T, H, W), grey 0..255. ``fps`` is 0.0 if the file has no rate. ``spacing_mm`` is that of a
    pixel in millimetres, or None: ``pixel_aspect``, its width over its height, then gives shapes. ``warnings`` are
    sentences that a user must see before he trusts the pixels; they hold no value that could name a patient.
    ``pseudonym`` is `DicomCine.clip_id`, None if no salt was given or the file is no DICOM file. ``reference`` is that
    of a DICOM file, if it was asked for.
    """

    video: np.ndarray
    fps: float
    spacing_mm: Spacing | None = None
    warnings: tuple[str, ...] = ()
    pseudonym: str | None = None
    reference: DicomReference | None = None
    pixel_aspect: float = 1.0

    @property
    def sides(self) -> Spacing:
        """Of a pixel: in millimetres, or of area 1."""
        return known_sides(self.spacing_mm, self.pixel_aspect)


def read_cine(data: bytes, name: str, *, salt: str | None = None, references: bool = False) -> Cine:
    """Read an AVI, MP4, MOV or DICOM file. The content decides which one it is; the suffix does not matter.

    Args:
        data: the file's content.
        name: the file's name in errors and warnings. Names of DICOM files can hold patients' names: give a neutral one.
        salt: the secret of pseudonyms of DICOM files, see `read_dicom`.
        references: whether a DICOM file's `DicomReference` is kept.

    Raises:
        ClipError: the file cannot be used. See `decode_video` and `read_dicom`.
        InputError: the salt is too short, or pydicom is not installed.
    """
    if not is_dicom(data):
        decoded = decode_video(data, name=name)
        warnings = tuple(f"{name} {note}" for note in aspect_note(decoded.pixel_aspect))
        return Cine(decoded.video, decoded.fps, warnings=warnings, pixel_aspect=decoded.pixel_aspect)
    found = read_dicom(data, salt=salt, name=name)
    reference = read_reference(data) if references else None
    return Cine(found.video, found.fps, found.spacing_mm, found.warnings, found.clip_id, reference, found.pixel_aspect)


def is_dicom(data: bytes) -> bool:
    """Whether a file begins as DICOM files do: 128 free bytes and ``DICM`` (PS3.10, 7.1)."""
    return data[128:132] == b"DICM"
