"""DICOM cines: pixels against what was written, rate, scale, and that nothing of the patient leaves."""

import dataclasses
import logging
import pickle
import warnings

import numpy as np
import pytest

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.dicom import read_dicom
from tests.helpers.dicom import PATIENT, UID, cine, dicom_bytes, region

SALT = "a secret of the data set"
FULL = region(0, 0, 31, 23)
VECTOR = {"FrameTimeVector": ["0", "20", "20", "20", "20"], "FrameIncrementPointer": 0x00181065}


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "rle"])
def test_lossless_grey_comes_out_as_it_was_written(syntax):
    found = read_dicom(dicom_bytes(syntax=syntax, regions=[FULL]), salt=SALT)
    assert np.array_equal(found.video, cine())
    assert found.video.dtype == np.uint8


def test_other_ways_to_store_pixels():
    grey = cine()
    jpeg = read_dicom(dicom_bytes(syntax="jpeg"), salt=SALT).video
    assert np.abs(jpeg.astype(int) - grey).mean() < 2  # quality 95 on a ramp with one edge a row
    colour = read_dicom(dicom_bytes(syntax="jpeg", photometric="YBR_FULL_422"), salt=SALT).video
    assert np.abs(colour.astype(int) - grey).mean() < 2
    assert np.array_equal(read_dicom(dicom_bytes(photometric="MONOCHROME1"), salt=SALT).video, 255 - grey)
    for photometric in ("RGB", "YBR_FULL", "YBR_FULL_422"):  # grey as colour: its luma is itself
        assert np.array_equal(read_dicom(dicom_bytes(photometric=photometric), salt=SALT).video, grey), photometric
    # 12 stored bits of v * 16: 4080 is not 4095, so white is 254.1
    wide = read_dicom(dicom_bytes(bits=16), salt=SALT).video
    assert np.array_equal(wide, np.rint(grey * 16.0 * 255 / 4095).astype(np.uint8))


def test_luma_of_colour_is_bt_601():
    pure = np.zeros((2, 24, 32), np.uint8)
    pixels = np.zeros((2, 24, 32, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 200, 100, 50
    data = dicom_bytes(pure, photometric="RGB", elements={"PixelData": pixels.tobytes()})
    assert (read_dicom(data, salt=SALT).video == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()


@pytest.mark.parametrize(
    ("elements", "fps"),
    [
        ({"FrameTime": 20.0, "CineRate": 30, "RecommendedDisplayFrameRate": 25}, 50.0),
        ({"FrameTime": None, "CineRate": 30, "RecommendedDisplayFrameRate": 25}, 30.0),
        ({"FrameTime": 0.0, "RecommendedDisplayFrameRate": 25}, 25.0),
        ({"FrameTime": None}, 0.0),
        ({"FrameTime": None, **VECTOR, "CineRate": 50}, 50.0),
        ({"FrameTime": 40.0, **VECTOR}, 50.0),
        ({"FrameTime": 40.0, **VECTOR, "FrameIncrementPointer": 0x00181063}, 25.0),
        (
            {"FrameTime": None, "FrameTimeVector": ["0", "33", "34", "33", "33"], "FrameIncrementPointer": None},
            4e3 / 133,
        ),
        ({"FrameTime": None, "FrameTimeVector": ["0", "0", "0", "0", "0"]}, 0.0),
        ({"FrameTime": -20.0, "CineRate": 0}, 0.0),
    ],
)
def test_the_rate_is_taken_in_order(elements, fps):
    assert read_dicom(dicom_bytes(elements=elements), salt=SALT).fps == pytest.approx(fps)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"CineRate": 30}, "has 50 frames a second by Frame Time, which is taken, and 30 by Cine Rate"),
        ({"FrameTime": None, "RecommendedDisplayFrameRate": 25},
         "has no time of its frames; 25 frames a second are those recommended for display"),
        ({"FrameTimeVector": ["0", "20"]},
         "has 5 frames and another number of times in its Frame Time Vector, which is not taken"),
        ({"CineRate": 51, "RecommendedDisplayFrameRate": 25}, None),
    ],
)  # fmt: skip
def test_a_doubtful_rate_is_said(elements, said):
    warned = read_dicom(dicom_bytes(regions=[FULL], elements=elements), salt=SALT).warnings
    assert warned == (() if said is None else (f"a DICOM file {said}",))


def test_frames_at_uneven_times_are_refused():
    elements = {"FrameTime": None, "FrameTimeVector": ["0", "20", "20", "100", "100"]}
    with pytest.raises(
        ClipError, match=r"^a DICOM file has a variable frame rate \(10 to 50 frames a second\); expected"
    ):
        read_dicom(dicom_bytes(elements=elements), salt=SALT)


def test_spacing_and_what_lies_outside_of_the_regions():
    video = np.full((2, 24, 32), 99, np.uint8)
    doppler = {**region(0, 20, 31, 23), "RegionSpatialFormat": 3}
    small = region(22, 0, 31, 8, delta_cm=0.09)
    found = read_dicom(dicom_bytes(video, regions=[doppler, small, region(2, 4, 13, 15)]), salt=SALT)
    expected = np.zeros((24, 32), np.uint8)
    expected[4:16, 2:14] = expected[0:9, 22:32] = 99  # bounds include both corners
    assert np.array_equal(found.video[0], expected)
    assert found.spacing_mm == pytest.approx(0.5)  # the largest region's 0.05 cm
    for changed in (
        {"PhysicalDeltaY": 0.8},  # 16 times as high as wide
        {"PhysicalUnitsXDirection": 4},  # seconds
        {"PhysicalDeltaX": 0.0},
    ):
        assert read_dicom(dicom_bytes(regions=[{**FULL, **changed}]), salt=SALT).spacing_mm is None
    stretched = read_dicom(dicom_bytes(regions=[{**FULL, "PhysicalDeltaY": 0.08}]), salt=SALT)
    assert stretched.spacing_mm == pytest.approx((0.8, 0.5))  # height and width
    assert stretched.warnings == ()
    # some machines count the first pixel beyond
    assert read_dicom(dicom_bytes(regions=[region(0, 0, 32, 24)]), salt=SALT).spacing_mm == pytest.approx(0.5)


def test_pixels_that_cannot_be_are_said():
    found = read_dicom(dicom_bytes(regions=[{**FULL, "PhysicalDeltaY": 0.8}]), salt=SALT)
    assert found.warnings == (
        "a DICOM file has pixels 8 mm high and 0.5 mm wide, which cannot be; its scale is not given",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "ratio", "aspect", "words"),
    [
        ({}, ["3", "4"], 4 / 3, "has pixels 1.33 times as wide as high, and 1 times by their lengths, which count"),
        ({"PhysicalDeltaX": 0.1}, ["1", "2"], 2.0, ""),  # 1 mm wide, 0.5 mm high
        ({"PhysicalUnitsXDirection": 4}, ["2", "1"], 0.5, "has pixels 0.5 times as wide as high, of unknown lengths"),
        (
            {"PhysicalUnitsXDirection": 4},
            ["1", "9"],
            9.0,
            "has pixels 9 times as wide as high, which cannot be: they are taken for square ones",
        ),
        ({}, ["1", "1"], 1.0, ""),
        ({}, ["0", "1"], 1.0, ""),
    ],
)
def test_an_aspect_ratio_counts_without_lengths_and_is_held_against_them(lengths, ratio, aspect, words):
    """`FULL` has pixels of 0.5 mm."""
    data = dicom_bytes(regions=[{**FULL, **lengths}], elements={"PixelAspectRatio": ratio})
    found = read_dicom(data, salt=SALT)
    assert found.pixel_aspect == pytest.approx(aspect)
    assert found.warnings == ((f"a DICOM file {words}",) if words else ())


@pytest.mark.parametrize(
    "wrong",
    [
        [region(0, 0, 0, 0)],
        [region(0, 0, 63, 47)],  # of an image twice as large
        [region(500, 500, 600, 600)],
        [region(20, 4, 2, 20)],
        [region(4, 4, 9, 9)],  # too small for a heart
        [FULL, region(0, 0, 0, 0)],
        [{**FULL, "RegionLocationMaxX1": None}],
        [region(0, 0, 15, 11)],  # dark: the picture is elsewhere
    ],
)
def test_regions_that_contradict_the_pixels_do_not_count(wrong):
    video = cine()
    video[:, :12, :16] = 3 if wrong == [region(0, 0, 15, 11)] else video[:, :12, :16]
    found = read_dicom(dicom_bytes(video, regions=wrong), salt=SALT)
    assert np.array_equal(found.video, video)
    assert found.spacing_mm is None
    assert found.may_show_text
    assert found.warnings == (
        "a DICOM file has ultrasound regions that do not fit its pixels, so that its scale is not known",
        "a DICOM file may show text burned into its pixels",
    )


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([FULL, {**region(8, 8, 23, 20), "RegionDataType": 2}],
         "shows data as colours (flow, or velocity of tissue), which are grey as bright as they are here"),
        ([region(0, 0, 31, 12), {**region(0, 13, 31, 23), "RegionSpatialFormat": 3, "RegionDataType": 3}],
         "shows a spectral Doppler trace beside the picture"),
        ([region(0, 0, 31, 12), {**region(0, 13, 31, 23), "RegionSpatialFormat": 2}],
         "shows an M-mode trace beside the picture"),
        ([region(0, 0, 15, 23), region(16, 0, 31, 23)],
         "shows 2 pictures side by side; the scale is that of the largest"),
    ],
)  # fmt: skip
def test_a_picture_that_is_not_one_of_tissue_only_is_said(regions, said):
    found = read_dicom(dicom_bytes(regions=regions), salt=SALT)
    assert found.warnings == (f"a DICOM file {said}",)
    assert not found.may_show_text


def test_colour_data_are_said_without_regions():
    found = read_dicom(dicom_bytes(elements={"UltrasoundColorDataPresent": 1, "BurnedInAnnotation": "NO"}), salt=SALT)
    assert found.warnings == (
        "a DICOM file shows data as colours (flow, or velocity of tissue), which are grey as bright as they are here",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("said", "regions", "warned"),
    [("YES", [FULL], True), ("NO", None, False), (None, None, True), (None, [FULL], False)],
)
def test_burned_in_text_is_warned_of(said, regions, warned):
    elements = {} if said is None else {"BurnedInAnnotation": said}
    assert read_dicom(dicom_bytes(elements=elements, regions=regions), salt=SALT).may_show_text is warned


def test_nothing_that_names_the_patient_leaves(caplog):
    data = dicom_bytes(regions=[FULL], elements={"FrameTime": None})
    assert PATIENT.encode() in data
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = read_dicom(data, salt=SALT)
        said = [str(found), pickle.dumps(found).decode("latin-1"), caplog.text, *(str(w.message) for w in warned)]
        damaged = [data[: len(data) // 2], data.replace(b"MONOCHROME2", b"DOE^JOHN   "), data.replace(b"20", b"DO")]
        damaged += [data.replace(UID.encode(), PATIENT.ljust(len(UID)).encode()), data.replace(b"1.2.840", b"DOE.JOH")]
        for spoiled in damaged:
            try:
                said.append(str(read_dicom(spoiled, salt=SALT)))
            except ClipError as error:
                said += [str(error), str(error.__cause__)]  # a traceback shows the cause, which would quote the file
        said += [caplog.text, *(str(w.message) for w in warned)]
    for text in said:
        assert "DOE" not in text
        assert UID not in text
    assert {field.name for field in dataclasses.fields(found)} == {
        "clip_id", "video", "fps", "spacing_mm", "may_show_text", "warnings", "pixel_aspect"
    }  # fmt: skip


def test_pseudonyms_depend_on_file_and_salt():
    one = read_dicom(dicom_bytes(), salt=SALT).clip_id
    assert one == read_dicom(dicom_bytes(bits=16), salt=SALT).clip_id  # the same instance
    assert one != read_dicom(dicom_bytes(), salt=SALT + "!").clip_id
    assert one != read_dicom(dicom_bytes(elements={"SOPInstanceUID": f"{UID}.1"}), salt=SALT).clip_id
    with pytest.raises(InputError, match="the salt of pseudonyms has 5 characters, at least 16 are needed"):
        read_dicom(dicom_bytes(), salt="short")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (lambda: b"", r"is not a readable DICOM file \(InvalidDicomError\)"),
        (lambda: b"prose " * 99, "is not a readable DICOM file"),
        (lambda: dicom_bytes(elements={"PixelData": None}), "holds no image"),
        (lambda: dicom_bytes(elements={"NumberOfFrames": 1}), "holds 1 frame; expected a cine of several"),
        (lambda: dicom_bytes(elements={"NumberOfFrames": 900}), "has 3840 bytes of pixels, but 900 frames of 32 x 24"),
        (lambda: dicom_bytes(elements={"NumberOfFrames": 2}), "has 3840 bytes of pixels, but 2 frames of 32 x 24"),
        (lambda: dicom_bytes(syntax="jpeg", elements={"NumberOfFrames": 9}),
         "has 5 readable frames, its NumberOfFrames is 9"),
        (lambda: dicom_bytes(syntax="jpeg", elements={"Rows": 12}), "has in frame 0 a picture of 32 x 24 pixels"),
        (lambda: dicom_bytes(elements={"Rows": 65535, "Columns": 65535}), "promises 5 frames of 65535 x 65535 pixels"),
        (lambda: dicom_bytes(elements={"NumberOfFrames": 2**31 - 1}), "promises 2147483647 frames"),
        (lambda: dicom_bytes(photometric="PALETTE COLOR"), "has no whole palette: its colour red cannot be read"),
        (lambda: dicom_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.99"), "not registered"),
        (lambda: dicom_bytes(syntax="jpeg").replace(b"10008.1.2.4.50", b"10008.1.2.4.80"),
         "JPEG-LS Lossless Image Compression, for which no decoder is installed: pip install .*pyjpegls"),
        (lambda: dicom_bytes(syntax="jpeg").replace(b"10008.1.2.4.50", b"10008.1.2.4.70"),
         "JPEG Lossless, .* no decoder is installed: pip install python-gdcm>=3.0.10, or pylibjpeg>=2.0 and py"),
        (lambda: dicom_bytes(syntax="h264", photometric="YBR_PARTIAL_420"),
         r"holds a video \(MPEG-4 AVC/H.264 High Profile / Level 4.1\), which is not read inside of DICOM; extract it"),
        (lambda: dicom_bytes(syntax="jpeg").replace(b"1.2.4.50", b"1.2.1.99"), "is deflated as a whole"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(data, sentence):
    with pytest.raises(ClipError, match=f"^a DICOM file .*{sentence}"):
        read_dicom(data(), salt=SALT)
