"""Masks as a DICOM Segmentation (PS3.3, A.51) of the ultrasound image that they belong to.

It holds no attribute of the patient: the image's UIDs are the only values of its file. Functional groups tell of every
frame which frame of the image it segments, at which time, and in which segment. A frame of reference would ask for the
plane's place in the patient, which an ultrasound cine does not know: frames lie on those of the image, pixel by pixel.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

from echodfkd.core.errors import InputError
from echodfkd.sources.video.dicom_reference import DicomReference

_ANATOMY = {
    "LV": ("87878005", "Left ventricle"),
    "myocardium": ("74281007", "Myocardium"),
    "LA": ("82471001", "Left atrium"),
    "RV": ("53085002", "Right ventricle"),
    "RA": ("73829009", "Right atrium"),
}
"""SNOMED CT codes of the classes."""
_STRUCTURE = ("123037004", "Anatomical Structure")
_METHOD = "EchoDFKD: no attribute of the image but its UIDs is copied"


def masks_dicom(masks: Mapping[str, np.ndarray], reference: DicomReference, *, fps: float) -> bytes:
    """A file of one binary segmentation: a segment for each class, in it a frame for every frame of the image.

    The same masks of the same image have the same UIDs. The size of a pixel is the image's own to say: the functional
    group for it asks for a thickness as well, which is not known.

    Args:
        masks: bool (T, H, W) by class, at the image's own size and rate.
        reference: to the image.
        fps: its rate; 0 if unknown: frames then have an index and no time.

    Raises:
        InputError: pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.pixels import pack_bits
        from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage
    except ImportError as error:
        raise InputError("--formats dicom needs pydicom: pip install 'echodfkd[medical]'") from error
    stack = np.stack(list(masks.values()))
    seed = f"{reference.sop_instance} {hashlib.sha256(stack.tobytes()).hexdigest()}"
    own, series, dimensions = (f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, seed + part).int}" for part in "isd")
    dataset = _items(
        SOPClassUID=SegmentationStorage,
        SOPInstanceUID=own,
        SeriesInstanceUID=series,
        **_about(reference),
        **_pixels(stack),
        PixelData=pack_bits(stack.reshape(-1).astype(np.uint8)),
        SegmentSequence=[_segment(number, name) for number, name in enumerate(masks, 1)],
        SharedFunctionalGroupsSequence=[_items()],
        PerFrameFunctionalGroupsSequence=[
            _frame(segment, frame, reference, fps)
            for segment in range(1, len(stack) + 1)
            for frame in range(1, stack.shape[1] + 1)
        ],
        **_dimensions(dimensions),
    )
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    sink = io.BytesIO()
    pydicom.dcmwrite(sink, dataset, enforce_file_format=True)
    return sink.getvalue()


def _items(**values: Any) -> Any:
    """A data set of these attributes, by keyword."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for key, value in values.items():
        setattr(dataset, key, value)
    return dataset


def _code(value: str, meaning: str, scheme: str = "SCT") -> list[Any]:
    return [_items(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)]


def _about(reference: DicomReference) -> dict[str, Any]:
    """Patient (empty), study, series, equipment, and the image that is segmented."""
    now = datetime.datetime.now(datetime.UTC)
    empty = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID")
    image = _items(ReferencedSOPClassUID=reference.sop_class, ReferencedSOPInstanceUID=reference.sop_instance)
    return {
        **dict.fromkeys((*empty, "AccessionNumber", "ReferringPhysicianName", "ContentCreatorName"), ""),
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": _METHOD,
        "StudyInstanceUID": reference.study,
        "Modality": "SEG",
        "SeriesNumber": 1,
        "SeriesDescription": "EchoDFKD, research only",
        "InstanceNumber": 1,
        "Manufacturer": "EchoDFKD",
        "ManufacturerModelName": "EchoDFKD student",
        "DeviceSerialNumber": "none",
        "SoftwareVersions": metadata.version("echodfkd"),
        "ContentDate": f"{now:%Y%m%d}",
        "ContentTime": f"{now:%H%M%S}",
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "Research software, not a medical device",
        "ReferencedSeriesSequence": [_items(SeriesInstanceUID=reference.series, ReferencedInstanceSequence=[image])],
    }


def _pixels(stack: np.ndarray) -> dict[str, Any]:
    segments, T, H, W = stack.shape
    return {
        "ImageType": ["DERIVED", "PRIMARY"],
        "SegmentationType": "BINARY",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "NumberOfFrames": segments * T,
        "Rows": H,
        "Columns": W,
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "LossyImageCompression": "00",
        "BurnedInAnnotation": "NO",
    }


def _segment(number: int, name: str) -> Any:
    code, meaning = _ANATOMY[name]
    return _items(
        SegmentNumber=number,
        SegmentLabel=meaning,
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName="EchoDFKD student",
        SegmentedPropertyCategoryCodeSequence=_code(*_STRUCTURE),
        SegmentedPropertyTypeCodeSequence=_code(code, meaning),
    )


def _frame(segment: int, frame: int, reference: DicomReference, fps: float) -> Any:
    """Functional groups of one frame, both numbers from 1."""
    source = _items(
        ReferencedSOPClassUID=reference.sop_class,
        ReferencedSOPInstanceUID=reference.sop_instance,
        ReferencedFrameNumber=frame,
        SpatialLocationsPreserved="YES",
        PurposeOfReferenceCodeSequence=_code("121322", "Source image for image processing operation", "DCM"),
    )
    derived = _items(SourceImageSequence=[source], DerivationCodeSequence=_code("113076", "Segmentation", "DCM"))
    groups = _items(
        FrameContentSequence=[_items(DimensionIndexValues=[segment, frame], TemporalPositionIndex=frame)],
        DerivationImageSequence=[derived],
        SegmentIdentificationSequence=[_items(ReferencedSegmentNumber=segment)],
    )
    if fps:
        groups.TemporalPositionSequence = [_items(TemporalPositionTimeOffset=(frame - 1) / fps)]
    return groups


def _dimensions(uid: str) -> dict[str, Any]:
    """Frames are ordered by segment, then by time."""
    from pydicom.datadict import tag_for_keyword

    pairs = (
        ("ReferencedSegmentNumber", "SegmentIdentificationSequence"),
        ("TemporalPositionIndex", "FrameContentSequence"),
    )
    index = [
        _items(
            DimensionOrganizationUID=uid,
            DimensionIndexPointer=tag_for_keyword(pointer),
            FunctionalGroupPointer=tag_for_keyword(group),
        )
        for pointer, group in pairs
    ]
    return {"DimensionOrganizationSequence": [_items(DimensionOrganizationUID=uid)], "DimensionIndexSequence": index}
