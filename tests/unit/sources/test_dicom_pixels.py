"""Pixels of DICOM files: what the file says of them is held against the bytes, and followed."""

import io
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.dicom import read_dicom
from tests.helpers.dicom import cine, dicom_bytes, region

FULL = region(0, 0, 31, 23)


def read(data):
    return read_dicom(data, salt=None)


def in_pydicom(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(data))


def test_bytes_decide_whether_colours_are_halved():
    video = cine()
    whole = np.stack([video, np.full_like(video, 90), np.full_like(video, 160)], -1)
    data = dicom_bytes(photometric="YBR_FULL_422", regions=[FULL], elements={"PixelData": whole.tobytes()})
    found = read(data)
    assert np.array_equal(found.video, video)
    assert found.warnings == (
        "a DICOM file says YBR_FULL_422 and stores all colours of each pixel: read as YBR_FULL",
    )  # fmt: skip
    assert read(dicom_bytes(photometric="YBR_FULL_422", regions=[FULL])).warnings == ()


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colours_may_come_one_after_the_other(photometric):
    video = cine()
    planes = np.stack([video, video if photometric == "RGB" else np.full_like(video, 7), video], 1)
    data = dicom_bytes(photometric=photometric, elements={"PlanarConfiguration": 1, "PixelData": planes.tobytes()})
    assert np.array_equal(read(data).video, video)


@pytest.mark.parametrize(
    ("photometric", "elements"),
    [
        ("RGB", {"PixelData": cine().tobytes()}),  # one byte a pixel
        ("MONOCHROME2", {"PixelData": np.repeat(cine()[..., None], 3, 3).tobytes()}),
        ("MONOCHROME2", {"BitsAllocated": 16}),
        ("MONOCHROME2", {"PixelData": cine().tobytes()[:-2]}),
        ("MONOCHROME2", {"PixelData": cine(6).tobytes()}),
        ("YBR_FULL_422", {"Columns": 31}),
    ],
)
def test_another_number_of_bytes_than_described_is_refused(photometric, elements):
    with pytest.raises(ClipError, match=r"^a DICOM file has \d+ bytes of pixels, but 5 frames of 3[12] x 24 as "):
        read(dicom_bytes(photometric=photometric, elements=elements))


@pytest.mark.parametrize(
    "elements",
    [
        {"BitsStored": 0},
        {"BitsStored": 12},
        {"BitsAllocated": 32},
        {"HighBit": 8},
        {"HighBit": 3},
        {"BitsAllocated": 1},
    ],
)
def test_bits_that_cannot_be_are_refused(elements):
    with pytest.raises(ClipError, match=r"^a DICOM file stores \d+ of \d+ bits a sample as MONOCHROME2, highest bit "):
        read(dicom_bytes(elements=elements))


def wide(values, **elements):
    """A file of 16 allocated bits."""
    return dicom_bytes(
        bits=16, elements={"BitsStored": 16, "HighBit": 15, "PixelData": values.astype("<u2").tobytes(), **elements}
    )


def test_unused_bits_and_their_place():
    grey = cine().astype(np.uint16)
    rubbish = np.uint16(0x9000)
    assert np.array_equal(read(wide(grey | rubbish, BitsStored=8, HighBit=7)).video, cine())
    assert np.array_equal(read(wide((grey << 4) | rubbish | 5, BitsStored=8, HighBit=11)).video, cine())


VALUES = np.linspace(0, 65535, 5 * 24 * 32).round().astype(np.uint16).reshape(5, 24, 32)
WINDOWS = [
    {"WindowCenter": 30000, "WindowWidth": 20000},
    {"WindowCenter": [500, 30000], "WindowWidth": [900, 20000], "RescaleSlope": "0.02", "RescaleIntercept": "-50"},
    {"WindowCenter": 30000, "WindowWidth": 20000, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 30000, "WindowWidth": 20000, "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": 0, "WindowWidth": 20000, "PixelRepresentation": 1},
    {"WindowCenter": 30000, "WindowWidth": 20000, "PhotometricInterpretation": "MONOCHROME1"},
    {"RescaleSlope": "3", "RescaleIntercept": "-1024"},
]


@pytest.mark.parametrize("elements", WINDOWS)
def test_rescale_and_window_are_followed(elements):
    data = wide(VALUES, **elements)
    dataset = in_pydicom(data)
    signed = elements.get("PixelRepresentation") == 1
    ends = np.array([-32768, 32767] if signed else [0, 65535])
    values, ends = (apply_modality_lut(part, dataset) for part in (dataset.pixel_array, ends))
    values = apply_windowing(values, dataset) if "WindowWidth" in dataset else values
    expected = (values - float(ends[0])) / (float(ends[1]) - float(ends[0])) * 255
    expected = 255 - expected if dataset.PhotometricInterpretation == "MONOCHROME1" else expected
    assert np.abs(read(data).video - expected).max() <= 0.51  # rounded once


def test_a_negative_slope_inverts():
    assert np.array_equal(
        read(dicom_bytes(elements={"RescaleSlope": "-1", "RescaleIntercept": "255"})).video, 255 - cine()
    )


def test_values_that_need_a_window_are_refused_without_one():
    with pytest.raises(
        ClipError, match=r"^a DICOM file stores 16 bits a sample, but its brightest pixel is 250, and no"
    ):
        read(wide(cine()))
    shown = read(wide(cine(), WindowCenter=128, WindowWidth=256)).video
    assert np.array_equal(shown, cine())
    for elements, words in (
        ({"WindowCenter": 5, "WindowWidth": 0}, "has a window of width 0 that none of LINEAR"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "DOE"}, "has a window of width 9 that none of"),
        ({"RescaleSlope": "0"}, "has the rescale slope 0, which makes all pixels equal"),
        ({"VOILUTSequence": [pydicom.Dataset()]}, "has a value of interest lookup table, which is not read"),
    ):
        with pytest.raises(ClipError, match=f"^a DICOM file {words}"):
            read(wide(VALUES, **elements))


def palette(bits, entries, first=0, *, byte_levels=False):
    """Elements of a palette whose levels fall, and differ by colour."""
    elements = {}
    for colour, most in (("Red", 250), ("Green", 220), ("Blue", 180)):
        levels = np.linspace(most, 3, entries).round().astype(np.uint16)
        levels = levels.astype(np.uint8) if byte_levels else levels << (8 if bits == 16 else 0)
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [entries % 65536, first, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = levels.astype(levels.dtype.newbyteorder("<")).tobytes()
    return elements


@pytest.mark.parametrize(
    ("bits", "entries", "first", "byte_levels"),
    [(8, 256, 0, True), (8, 256, 0, False), (16, 256, 0, False), (16, 100, 40, False), (8, 100, 40, True)],
)
def test_palettes_are_looked_up(bits, entries, first, byte_levels):
    elements = palette(bits, entries, first, byte_levels=byte_levels)
    data = dicom_bytes(photometric="PALETTE COLOR", elements=elements)
    dataset = in_pydicom(data)
    colours = apply_color_lut(dataset.pixel_array, dataset).astype(float)
    expected = (colours / 256 if colours.max() > 255 else colours) @ [0.299, 0.587, 0.114]
    assert np.abs(read(data).video - expected).max() <= 0.51


def test_a_palette_of_65536_colours_says_0():
    data = wide(VALUES, PhotometricInterpretation="PALETTE COLOR", **palette(16, 65536))
    expected = (apply_color_lut(VALUES, in_pydicom(data)) >> 8).astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(read(data).video - expected).max() <= 0.51


def test_segments_of_a_palette_are_expanded():
    # 2 levels, 98 on the way to 25600, the first two segments again, then 56 levels down to 0
    words = [0, 2, 0, 256, 1, 98, 25600, 2, 2, 0, 0, 1, 56, 0]
    elements = {}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = np.array(words, "<u2").tobytes()
    data = dicom_bytes(photometric="PALETTE COLOR", elements=elements)
    expected = apply_color_lut(cine(), in_pydicom(data))[..., 0] / 256
    assert np.abs(read(data).video - expected).max() <= 1.0  # the middle of a ramp may be rounded up or down
    for bad in ([1, 56, 0], [0, 9, 1], [2, 60000, 0, 0], [7, 1, 1], [0]):
        elements["SegmentedRedPaletteColorLookupTableData"] = np.array(bad, "<u2").tobytes()
        with pytest.raises(ClipError, match=r"^a DICOM file has \d+ of 256 levels of the colour red in its palette"):
            read(dicom_bytes(photometric="PALETTE COLOR", elements=elements))


def jpeg(frame, *, colour="YCbCr", adobe=None):
    """A picture as JPEG: libjpeg writes a JFIF segment for YCbCr; ``adobe`` puts Adobe's in its place."""
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, format="JPEG", quality=95, subsampling=0)
    data = sink.getvalue()
    if adobe is None:
        return data
    length = int.from_bytes(data[4:6], "big")
    segment = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes((adobe,))
    return data[:2] + segment + data[4 + length :]


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("adobe", [None, 1], ids=["JFIF", "Adobe"])
def test_a_jpeg_that_says_its_colours_is_believed(photometric, adobe):
    colours = np.zeros((2, 24, 32, 3), np.uint8)
    colours[:, :, :16], colours[:, :, 16:] = (200, 40, 30), (20, 60, 220)
    frames = encapsulate([jpeg(frame, adobe=adobe) for frame in colours])
    data = dicom_bytes(
        cine(2), syntax="jpeg", photometric=photometric, elements={"PixelData": frames, "SamplesPerPixel": 3}
    )
    expected = colours.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(read(data).video - expected).mean() < 2


def test_a_large_picture_inside_of_a_small_file_is_not_decoded():
    bomb = encapsulate([jpeg(np.zeros((8000, 8000), np.uint8))] * 5)
    with pytest.raises(
        ClipError, match=r"^a DICOM file has in frame 0 a picture of 8000 x 8000 pixels with 1 colours; ex"
    ):
        read(dicom_bytes(syntax="jpeg", elements={"PixelData": bomb}))


def test_run_lengths_are_held_against_the_pixels_before_they_are_expanded():
    good = in_pydicom(dicom_bytes(syntax="rle"))
    frame = next(generate_frames(good.PixelData, number_of_frames=5))
    assert np.array_equal(read(dicom_bytes(syntax="rle")).video, cine())
    for changed, words in (
        (frame + bytes((129, 0)) * 5000, r"has in frame 0 run lengths of \d+ bytes for 768 pixels"),
        (b"\3" + frame[1:], "has in frame 0 run lengths of 3 bytes a pixel; expected 1"),
        (frame[:4] + b"\xff\xff\xff\xff" + frame[8:], "has in frame 0 run lengths of -"),
        (b"", "has in frame 0 run lengths of 0 bytes a pixel"),
    ):
        good.PixelData = encapsulate([changed or b"\0\0"] * 5)
        sink = io.BytesIO()
        pydicom.dcmwrite(sink, good)
        with pytest.raises(ClipError, match=f"^a DICOM file {words}"):
            read(sink.getvalue())
