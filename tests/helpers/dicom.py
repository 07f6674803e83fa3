"""True DICOM cines for tests, written with pydicom: with a patient's name in every place that can hold one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

PATIENT = "DOE^JOHN"
UID = "1.2.826.0.1.3680043.8.498.1234567890"


def cine(num_frames: int = 5, height: int = 24, width: int = 32) -> np.ndarray:
    """uint8 (T, H, W): a ramp that moves."""
    row = np.linspace(5, 250, width).round().astype(np.uint8)
    return np.stack([np.tile(np.roll(row, 2 * t), (height, 1)) for t in range(num_frames)])


def dicom_bytes(
    video: np.ndarray | None = None,
    *,
    syntax: str = "explicit",
    photometric: str = "MONOCHROME2",
    bits: int = 8,
    elements: dict[str, Any] | None = None,
    regions: list[dict[str, Any]] | None = None,
) -> bytes:
    """A file of these grey frames; ``elements`` are set last (None removes one)."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        MPEG4HP41,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEGBaseline8Bit,
        RLELossless,
        UltrasoundMultiFrameImageStorage,
    )

    video = cine() if video is None else video
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = UID
    raw = ImplicitVRLittleEndian if syntax == "implicit" else ExplicitVRLittleEndian
    meta.TransferSyntaxUID = {"jpeg": JPEGBaseline8Bit, "h264": MPEG4HP41}.get(syntax, raw)
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundMultiFrameImageStorage, UID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT, f"{PATIENT}-17", "19400101"
    dataset.InstitutionName, dataset.StudyDescription = f"{PATIENT} CLINIC", f"echo of {PATIENT}"
    dataset.add_new(0x00091001, "LO", PATIENT)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = video.shape
    dataset.FrameTime = 20.0
    dataset.FrameIncrementPointer = 0x00181063
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (16, 12, 11) if bits == 16 else (8, 8, 7)
    dataset.PixelRepresentation = 0
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel = 1 if photometric.startswith(("MONO", "PALETTE")) else 3
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    pixels = _pixels(video, photometric, bits)
    if syntax in ("jpeg", "h264"):
        dataset.PixelData = encapsulate([_jpeg(frame, colour=photometric != "MONOCHROME2") for frame in video])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OW" if bits == 16 else "OB"
    if regions is not None:
        dataset.SequenceOfUltrasoundRegions = [_region(Dataset(), region) for region in regions]
    for key, value in (elements or {}).items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    if syntax == "rle":
        dataset.compress(RLELossless, generate_instance_uid=False)
    sink = io.BytesIO()
    pydicom.dcmwrite(sink, dataset, enforce_file_format=True)
    return sink.getvalue()


def region(left: int, top: int, right: int, bottom: int, *, delta_cm: float = 0.05, **more: Any) -> dict[str, Any]:
    """A two-dimensional tissue region, corners included."""
    corners = {"MinX0": left, "MinY0": top, "MaxX1": right, "MaxY1": bottom}
    return {
        **{f"RegionLocation{key}": value for key, value in corners.items()},
        "RegionSpatialFormat": 1, "RegionDataType": 1, "RegionFlags": 0,
        "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": delta_cm, "PhysicalDeltaY": delta_cm, **more,
    }  # fmt: skip


def _region(item: Any, values: dict[str, Any]) -> Any:
    for key, value in values.items():
        setattr(item, key, value)
    return item


def _pixels(video: np.ndarray, photometric: str, bits: int) -> bytes:
    if bits == 16:
        return (video.astype(np.uint16) << 4).astype("<u2").tobytes()
    if photometric in ("RGB", "YBR_FULL"):
        chroma = np.full_like(video, 128) if photometric == "YBR_FULL" else video
        return np.stack([video, chroma, chroma], -1).tobytes()
    if photometric == "YBR_FULL_422":  # Y1 Y2 Cb Cr for two pixels
        pairs = video.reshape(len(video), video.shape[1], -1, 2)
        return np.concatenate([pairs, np.full_like(pairs, 128)], -1).tobytes()
    return video.tobytes()


def _jpeg(frame: np.ndarray, colour: bool) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(frame).convert("RGB" if colour else "L").save(sink, format="JPEG", quality=95)
    return sink.getvalue()
