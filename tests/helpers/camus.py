"""Small folders in CAMUS's layouts: an ellipse that shrinks from ED to ES, with a wall around it and an atrium."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from echodfkd.sources.video.camus_files import CAMUS_CLASSES

SPACING = (0.3, 0.6)
"""Height and width of a pixel: CAMUS's are about 0.154 x 0.308 mm."""


def half_cycle(num_frames: int = 9, height: int = 90, width: int = 40, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Video and labels, uint8 (T, H, W); in millimetres the ventricle is an ellipse of 5.4 x 3.6 at ED."""
    row, column = np.mgrid[:height, :width]
    y, x = (row - 40) * SPACING[0], (column - 20 - shift) * SPACING[1]
    labels = np.zeros((num_frames, height, width), np.uint8)
    for t in range(num_frames):
        scale = 1.0 - 0.3 * t / (num_frames - 1)
        radius = np.hypot(y / 5.4, x / 3.6) / scale
        labels[t][radius <= 1.35] = CAMUS_CLASSES.index("myocardium")
        labels[t][radius <= 1.0] = CAMUS_CLASSES.index("LV")
        labels[t][np.hypot((y - 10) / 2.0, x / 3.0) <= 1] = CAMUS_CLASSES.index("LA")
    video = np.choose(labels, (90, 30, 160, 40)).astype(np.uint8)
    return video, labels


def write_info(folder: Path, view: str, **lines: object) -> None:
    values = {
        "ED": 1,
        "ES": 9,
        "NbFrame": 9,
        "Sex": "F",
        "Age": 61,
        "ImageQuality": "Good",
        "EF": 55,
        "FrameRate": 48.0,
    }
    values |= lines
    text = "".join(f"{key}: {value}\n" for key, value in values.items() if value is not None)
    (folder / f"Info_{view}.cfg").write_text(text)


def write_nifti(path: Path, frames_THW: np.ndarray) -> None:
    """As CAMUS has it: columns, rows, frames; gzip."""
    import nibabel

    values = frames_THW.transpose(2, 1, 0)
    image = nibabel.Nifti1Image(values[..., 0] if values.shape[2] == 1 else values, np.eye(4))
    image.header.set_zooms((SPACING[1], SPACING[0], 1.0)[: image.ndim])
    path.write_bytes(gzip.compress(image.to_bytes()))


def write_nifti_patient(root: Path, patient: str, views: tuple[str, ...] = ("2CH", "4CH"), **info: object) -> None:
    folder = root / patient
    folder.mkdir(parents=True)
    for shift, view in enumerate(views):
        video, labels = half_cycle(shift=shift)
        write_info(folder, view, **info)
        for what, frames in (("half_sequence", slice(None)), ("ED", slice(0, 1)), ("ES", slice(8, 9))):
            write_nifti(folder / f"{patient}_{view}_{what}.nii.gz", video[frames])
            write_nifti(folder / f"{patient}_{view}_{what}_gt.nii.gz", labels[frames])


def metaimage_header(frames_THW: np.ndarray, file: str, **changes: object) -> str:
    T, H, W = frames_THW.shape
    fields: dict[str, object] = {
        "ObjectType": "Image", "NDims": 3, "BinaryData": True, "BinaryDataByteOrderMSB": False,
        "CompressedData": file.endswith(".zraw"), "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
        "ElementSpacing": f"{SPACING[1]} {SPACING[0]} 1", "DimSize": f"{W} {H} {T}", "ElementType": "MET_UCHAR",
        "ElementDataFile": file,
    }  # fmt: skip
    fields |= changes
    return "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)


def write_metaimage(path: Path, frames_THW: np.ndarray, *, compressed: bool = False, **changes: object) -> None:
    file = path.with_suffix(".zraw" if compressed else ".raw")
    data = np.ascontiguousarray(frames_THW).tobytes()
    file.write_bytes(zlib.compress(data) if compressed else data)
    path.write_text(metaimage_header(frames_THW, file.name, **changes))


def write_metaimage_patient(root: Path, patient: str, view: str = "4CH", *, compressed: bool = False) -> None:
    folder = root / patient
    folder.mkdir(parents=True)
    video, labels = half_cycle()
    write_info(folder, view, EF=None, FrameRate=None, NbFrame=None, LVedv=94.4, LVesv=42.5, LVef=55)
    stem = f"{patient}_{view}"
    write_metaimage(folder / f"{stem}_sequence.mhd", video, compressed=compressed)
    for phase, frame in (("ED", 0), ("ES", 8)):
        write_metaimage(folder / f"{stem}_{phase}.mhd", video[frame : frame + 1], compressed=compressed)
        write_metaimage(folder / f"{stem}_{phase}_gt.mhd", labels[frame : frame + 1], compressed=compressed)
