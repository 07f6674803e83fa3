"""Masks of one video as files: NPZ, NIfTI, a sequence of NRRD.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence

import numpy as np

from echodfkd.core.errors import InputError
from echodfkd.inference.segmentation import Segmentation
from echodfkd.metrics.spacing import Spacing, pixel_sides
from echodfkd.reporting.segmented.dicom_seg import masks_dicom

FORMATS = ("npz", "nifti", "nrrd", "dicom")
"""Kinds of mask files."""


def mask_files(name: str, found: Segmentation, formats: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """(name of the file, content) of every file of these formats.

    A DICOM segmentation holds all classes, and is only made if the video is a DICOM image.

    Raises:
        InputError: a format needs a package that is not installed.
    """
    in_mm = found.spacing_mm is not None
    for label, codes in found.codes.items():
        stem, mask = name if label == "LV" else f"{name}.{label}", found.mask(label)
        if "npz" in formats:
            yield f"{stem}.seg.npz", masks_npz(codes)
        if "nifti" in formats:
            yield f"{stem}.nii.gz", masks_nifti(mask, fps=found.fps, sides=found.sides, in_mm=in_mm)
        if "nrrd" in formats:
            yield f"{stem}.seq.nrrd", masks_nrrd(mask, fps=found.fps, sides=found.sides, in_mm=in_mm)
    if "dicom" in formats and found.reference is not None:
        masks = {label: found.mask(label) for label in found.codes}
        yield f"{name}.dcm", masks_dicom(masks, found.reference, fps=found.fps)


def masks_npz(codes_THW: np.ndarray) -> bytes:
    """Codes round(255 p) as the authors store masks: one array ``arr_0``, uint8 (T, H, W)."""
    sink = io.BytesIO()
    np.savez_compressed(sink, codes_THW)
    return sink.getvalue()


def masks_nifti(mask_THW: np.ndarray, *, fps: float, sides: Spacing, in_mm: bool) -> bytes:
    """A mask as NIfTI-1 in CAMUS' axes: uint8 (W, H, T), millimetres and seconds.

    A pixel of unknown size has the area 1, a frame of unknown length is 1, in "unknown" units.
    """
    try:
        import nibabel as nib
    except ImportError as error:
        raise InputError("--formats nifti needs nibabel: pip install 'echodfkd[medical]'") from error
    (down, across), step = pixel_sides(sides), 1.0 / fps if fps else 1.0
    image = nib.Nifti1Image(mask_THW.transpose(2, 1, 0).astype(np.uint8), np.diag([across, down, 1.0, 1.0]))
    image.header.set_zooms((across, down, step))
    image.header.set_xyzt_units(xyz="mm" if in_mm else "unknown", t="sec" if fps else "unknown")
    return gzip.compress(image.to_bytes(), mtime=0)


def masks_nrrd(mask_THW: np.ndarray, *, fps: float, sides: Spacing, in_mm: bool) -> bytes:
    """A mask as a sequence of NRRD: uint8 (T, W, H, 1), a list of label maps, as 3D Slicer reads ``.seq.nrrd``.

    The format is that of https://teem.sourceforge.net/nrrd/format.html with Slicer's keys of a sequence. An ultrasound
    image has no place in the patient: columns run to the left, rows to the back. A pixel of unknown size has the
    area 1 without a unit, frames of unknown length are numbered.
    """
    T, H, W = mask_THW.shape
    down, across = pixel_sides(sides)
    times = " ".join(f"{frame / fps:.6g}" if fps else str(frame) for frame in range(T))
    lines = [
        "NRRD0005",
        "type: unsigned char",
        "dimension: 4",
        "space: left-posterior-superior",
        f"sizes: {T} {W} {H} 1",
        f"space directions: none ({across:.9g},0,0) (0,{down:.9g},0) (0,0,1)",
        "kinds: list domain domain domain",
        f'labels: "{"time" if fps else "frame"}" "" "" ""',
        *([f'units: "{"s" if fps else ""}" "" "" ""'] if fps else []),
        *(['space units: "mm" "mm" "mm"'] if in_mm else []),
        "encoding: gzip",
        "space origin: (0,0,0)",
        "axis 0 index type:=numeric",
        f"axis 0 index values:={times}",
        "DataNodeClassName:=vtkMRMLLabelMapVolumeNode",
    ]
    values = np.ascontiguousarray(mask_THW.transpose(1, 2, 0), np.uint8)  # time runs fastest
    return "\n".join([*lines, "", ""]).encode() + gzip.compress(values.tobytes(), mtime=0)
