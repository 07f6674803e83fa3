"""The UIDs by which a DICOM object refers to an image: the only values of a file beside numbers that are ever kept.

They name no person, but the archive finds the patient by them: they are read only for a segmentation in
DICOM's own format, which could not be shown on its image without them.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from echodfkd.sources.video.dicom_elements import quiet_pydicom, value_of

_UID = re.compile(r"(?=.{1,64}$)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
"""PS3.5, 9.1: at most 64 characters, components without leading zeros."""
_KEYS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True)
class DicomReference:
    """UIDs of an image."""

    sop_class: str
    sop_instance: str
    study: str
    series: str


def read_reference(data: bytes) -> DicomReference | None:
    """The reference to the image in a file that `read_dicom` has read; None if one of its UIDs is absent or none."""
    import pydicom

    with quiet_pydicom():
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=list(_KEYS))
        uids = [str(value_of(dataset, key) or "") for key in _KEYS]
    return DicomReference(*uids) if all(map(_UID.fullmatch, uids)) else None
