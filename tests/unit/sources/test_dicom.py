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
    ],
)
def test_the_rate_is_taken_in_order(elements, fps):
    assert read_dicom(dicom_bytes(elements=elements), salt=SALT).fps == fps


def test_spacing_and_what_lies_outside_of_the_regions():
    video = np.full((2, 24, 32), 99, np.uint8)
    doppler = {**region(0, 20, 31, 23), "RegionSpatialFormat": 3}
    small = region(20, 0, 23, 3, delta_cm=0.09)
    found = read_dicom(dicom_bytes(video, regions=[doppler, small, region(2, 4, 11, 13)]), salt=SALT)
    expected = np.zeros((24, 32), np.uint8)
    expected[4:14, 2:12] = expected[0:4, 20:24] = 99  # bounds include both corners
    assert np.array_equal(found.video[0], expected)
    assert found.spacing_mm == pytest.approx(0.5)  # the largest region's 0.05 cm
    for changed in (
        {"PhysicalDeltaY": 0.08},  # not square
        {"PhysicalUnitsXDirection": 4},  # seconds
        {"PhysicalDeltaX": 0.0},
    ):
        assert read_dicom(dicom_bytes(regions=[{**FULL, **changed}]), salt=SALT).spacing_mm is None
    # a region beyond the image is cut to it; one outside does not count
    assert read_dicom(dicom_bytes(regions=[region(0, 0, 4000, 4000)]), salt=SALT).video.any()
    assert read_dicom(dicom_bytes(regions=[region(500, 500, 600, 600)]), salt=SALT).may_show_text


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
        "clip_id", "video", "fps", "spacing_mm", "may_show_text", "warnings"
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
        (lambda: dicom_bytes(elements={"NumberOfFrames": 900}), "has pixels that cannot be decoded"),
        (lambda: dicom_bytes(elements={"Rows": 65535, "Columns": 65535}), "promises 5 frames of 65535 x 65535 pixels"),
        (lambda: dicom_bytes(elements={"NumberOfFrames": 2**31 - 1}), "promises 2147483647 frames"),
        (lambda: dicom_bytes(photometric="PALETTE COLOR"), "has the photometric interpretation PALETTE COLOR"),
        (lambda: dicom_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.99"), "not registered"),
        (lambda: dicom_bytes(syntax="jpeg").replace(b"10008.1.2.4.50", b"10008.1.2.4.80"), "JPEG-LS Lossless"),
        (lambda: dicom_bytes(syntax="jpeg").replace(b"1.2.4.50", b"1.2.1.99"), "is deflated as a whole"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(data, sentence):
    with pytest.raises(ClipError, match=f"^a DICOM file .*{sentence}"):
        read_dicom(data(), salt=SALT)
