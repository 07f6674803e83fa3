"""Every file that pydicom installs, read as pydicom itself reads it, or refused in one sentence."""

import io
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, iter_pixels

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.dicom import _read_elements, read_dicom
from echodfkd.sources.video.dicom_elements import quiet_pydicom
from echodfkd.sources.video.dicom_pixels import describe, grey_frames

SALT = "a secret of the data set"
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
EXTRA = Path(find_spec("data_store").origin).parent / "data" if find_spec("data_store") else Path("nowhere")
FILES = sorted([*SHIPPED.glob("*.dcm"), *EXTRA.glob("*.dcm")])
REAL_CINE = "color3d_jpeg_baseline.dcm"
LUMA = [0.299, 0.587, 0.114]

REFUSALS = {
    "has the transfer syntax JPEG-LS",
    "has the transfer syntax JPEG Lossless",
    "has JPEG frames of 12 bits a sample, for which no decoder is installed: pip install python-gdcm>=3.0.10, or",
    "is not a readable DICOM file",
    "holds no image",
    "is deflated as a whole",
    "expected up to 16 of grey or 8 of colour",
    "lookup table, which is not read",
    "no window says how to show it",
}
DAMAGED = {
    "MR_truncated.dcm": "has 8130 bytes of pixels, but 1 frames of 64 x 64 as MONOCHROME2 with 1 x 16 bits are 8192",
    "JPEG2000-embedded-sequence-delimiter.dcm": "has in frame 0 a picture of 3722445056 x 1024 pixels with 1 colours",
    "JPEG-lossy.dcm": "has pixels that cannot be decoded",  # if a decoder of 12 bits is installed: it finds damage
    "GDCMJ2K_TextGBR.dcm": "has pixels that cannot be decoded",  # a broken stream to Pillow
    "J2K_pixelrep_mismatch.dcm": "has pixels that cannot be decoded",  # by pydicom's iterator
}
BIG_ENDIAN_PALETTES = {  # pydicom 3.0.2 takes their tables for little-endian ones: the same pictures, stored otherwise
    "OBXXXX1A_expb.dcm": "OBXXXX1A.dcm",
    "OBXXXX1A_expb_2frame.dcm": "OBXXXX1A_2frame.dcm",
}


def reference(dataset):
    """Grey frames by pydicom's own functions, float (T, H, W)."""
    values = dataset.pixel_array
    shape = int(dataset.get("NumberOfFrames", 1) or 1), dataset.Rows, dataset.Columns
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(values, dataset)
        colours = colours >> 8 if colours.dtype == np.uint16 else colours
        return (colours.astype(float) @ LUMA).reshape(shape)
    if dataset.SamplesPerPixel == 3:  # pixel_array is RGB
        return (values.astype(float) @ LUMA).reshape(shape)
    half, all_values = 1 << (dataset.BitsStored - 1), 1 << dataset.BitsStored
    ends = np.array([-half, half - 1] if dataset.PixelRepresentation else [0, all_values - 1])
    if "WindowWidth" in dataset:
        values, ends = (apply_modality_lut(part, dataset) for part in (values, ends))
        values = apply_windowing(values, dataset)
    grey = (values.astype(float) - ends.min()) / (ends.max() - ends.min()) * 255
    return (255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey).reshape(shape)


def ours(data):
    with quiet_pydicom():
        dataset, syntax = _read_elements(data, "a file")
        pixels = describe(dataset, syntax, "a file")
        return np.stack(list(grey_frames(dataset, syntax, pixels, "a file", [])))


def read_or_reason(data):
    try:
        return ours(data), ""
    except ClipError as error:
        return None, str(error)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_file_that_pydicom_ships(path):
    data = path.read_bytes()
    if len(data) > 1_000_000 or path.name.startswith(("RG", "MR2")):
        pytest.skip("large, and of a kind that a smaller one shows")
    found, reason = read_or_reason(data)
    if found is None:
        assert any(words in reason for words in {*REFUSALS, DAMAGED.get(path.name, "is not a")}), reason
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data))
        expected = reference(pydicom.dcmread(path.parent / BIG_ENDIAN_PALETTES.get(path.name, path.name)))
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    if dataset.SamplesPerPixel == 3:
        # by way of RGB, colours are rounded and clipped to 0..255, which those of lossy streams often leave
        assert error.mean() < 1.0
    else:
        assert error.max() <= 1.0  # rounded once here, in each step there


def test_the_real_cine_whose_region_is_that_of_larger_pixels():
    found = read_dicom((SHIPPED / "examples_ybr_color.dcm").read_bytes(), salt=SALT)
    assert found.video.shape == (30, 240, 320)
    assert found.fps == pytest.approx(1000 / 33.333, rel=0.01)
    assert found.spacing_mm is None
    assert found.may_show_text
    assert (
        "a DICOM file has ultrasound regions that do not fit its pixels, so that its scale is not known"
        in found.warnings
    )
    np.testing.assert_array_equal(found.video, ours((SHIPPED / "examples_ybr_color.dcm").read_bytes()))  # unmasked


@pytest.mark.skipif(not (EXTRA / REAL_CINE).exists(), reason="pydicom-data is not installed")
def test_the_real_cine_of_full_size():
    data = (EXTRA / REAL_CINE).read_bytes()
    found = read_dicom(data, salt=SALT)
    assert found.video.shape == (120, 480, 640)
    assert found.spacing_mm == pytest.approx(0.5105, abs=1e-4)
    assert 20 < found.fps < 100
    assert not found.may_show_text
    box = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).SequenceOfUltrasoundRegions[0]
    outside = np.ones((480, 640), bool)
    outside[
        box.RegionLocationMinY0 : box.RegionLocationMaxY1 + 1, box.RegionLocationMinX0 : box.RegionLocationMaxX1 + 1
    ] = False
    assert not found.video[:, outside].any()
    for number, frame in zip((0, 60, 119), iter_pixels(io.BytesIO(data), indices=[0, 60, 119]), strict=True):
        error = np.abs(found.video[number][~outside] - (frame.astype(float) @ LUMA)[~outside])
        assert error.mean() < 1.0
