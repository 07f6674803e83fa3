"""Mask files that other programs read: a DICOM segmentation by pydicom, a NRRD sequence by the rules of the format.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import gzip
import io

import numpy as np
import pydicom
import pytest

from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.reporting.segmented.dicom_seg import masks_dicom
from echodfkd.reporting.segmented.mask_files import masks_nrrd
from echodfkd.sources.video.dicom_reference import DicomReference, read_reference
from tests.helpers.dicom import UID, dicom_bytes

SHAPE = (6, 5, 7)
"""35 pixels a frame: its bits end within a byte."""
US = "1.2.840.10008.5.1.4.1.1.3.1"
REFERENCE = DicomReference(US, UID, f"{UID}.1", f"{UID}.2")


def random_masks(*names: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.random(SHAPE) < 0.4 for name in names}


def test_a_segmentation_refers_to_every_frame_of_its_image_and_to_its_time() -> None:
    masks = random_masks("LV", "LA")
    data = masks_dicom(masks, REFERENCE, fps=40.0)
    found = pydicom.dcmread(io.BytesIO(data))
    assert np.array_equal(found.pixel_array.astype(bool), np.concatenate([masks["LV"], masks["LA"]]))
    assert (found.SOPClassUID, found.Modality) == (pydicom.uid.SegmentationStorage, "SEG")
    assert found.StudyInstanceUID == REFERENCE.study, "a segmentation belongs to the study of its image"
    assert found.SeriesInstanceUID not in (REFERENCE.series, "")
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == REFERENCE.series
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == UID
    codes = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in found.SegmentSequence]
    assert codes == ["87878005", "82471001"], "SNOMED CT: left ventricle, left atrium"
    frames = found.PerFrameFunctionalGroupsSequence
    assert len(frames) == found.NumberOfFrames == 2 * SHAPE[0]
    for place, frame in enumerate(frames):
        segment, time = divmod(place, SHAPE[0])
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (US, UID)
        assert source.ReferencedFrameNumber == time + 1
        assert frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment + 1
        assert list(frame.FrameContentSequence[0].DimensionIndexValues) == [segment + 1, time + 1]
        assert frame.TemporalPositionSequence[0].TemporalPositionTimeOffset == pytest.approx(time / 40)
        assert source.SpatialLocationsPreserved == "YES"


def test_what_is_not_known_is_left_out_of_a_segmentation() -> None:
    masks = random_masks(*CHAMBER_NAMES[1:])
    found, again, other = (
        pydicom.dcmread(io.BytesIO(masks_dicom(some, REFERENCE, fps=0.0)))
        for some in (masks, masks, random_masks("LV"))
    )
    assert "TemporalPositionSequence" not in found.PerFrameFunctionalGroupsSequence[0]
    assert "FrameOfReferenceUID" not in found, "it asks for the plane's position in the patient"
    assert len(found.SegmentSequence) == 5
    assert found.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert all(not str(found[key].value) for key in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate"))


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_an_image_without_valid_uids_has_no_reference() -> None:
    uids = {"StudyInstanceUID": f"{UID}.1", "SeriesInstanceUID": f"{UID}.2"}
    assert read_reference(dicom_bytes(elements=uids)) == REFERENCE
    assert read_reference(dicom_bytes(elements={"StudyInstanceUID": f"{UID}.1"})) is None
    assert read_reference(dicom_bytes(elements=uids | {"StudyInstanceUID": "1.2.DOE"})) is None


@pytest.mark.parametrize("known", [True, False])
def test_a_nrrd_sequence_is_a_list_of_label_maps(known: bool) -> None:
    mask = random_masks("LV")["LV"]
    fps, sides = (40.0, 0.5) if known else (0.0, 1.0)
    header, _, values = masks_nrrd(mask, fps=fps, sides=sides, in_mm=known).partition(b"\n\n")
    magic, *lines = header.decode().split("\n")
    fields = dict(line.split(":=" if ":=" in line else ": ", 1) for line in lines)
    assert (magic, fields["type"], fields["encoding"]) == ("NRRD0005", "unsigned char", "gzip")
    sizes = [int(size) for size in fields["sizes"].split()]
    assert sizes == [6, 7, 5, 1]
    array = np.frombuffer(gzip.decompress(values), np.uint8).reshape(sizes, order="F")
    assert np.array_equal(array[..., 0].transpose(0, 2, 1), mask)
    assert fields["kinds"] == "list domain domain domain"
    times = [float(time) for time in fields["axis 0 index values"].split()]
    assert times == pytest.approx(np.arange(6) / 40 if known else np.arange(6))
    side = "0.5" if known else "1"
    assert fields["space directions"] == f"none ({side},0,0) (0,{side},0) (0,0,1)"
    assert ("space units" in fields, "units" in fields) == (known, known)
    stretched = masks_nrrd(mask, fps=fps, sides=(0.8, 0.5), in_mm=known)
    assert b"space directions: none (0.5,0,0) (0,0.8,0) (0,0,1)" in stretched
