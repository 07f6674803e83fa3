"""One reader for AVI, MP4 and DICOM cines."""

import numpy as np
import pytest

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.cine import read_cine
from echodfkd.sources.video.encode import encode_avi, encode_mp4
from tests.helpers.dicom import cine, dicom_bytes, region


def test_a_cine_of_any_kind_has_pixels_rate_and_scale():
    video = cine()
    for encode in (encode_avi, encode_mp4):
        found = read_cine(encode(video, 50.0), "a")
        assert (found.video.shape, found.fps, found.spacing_mm, found.pseudonym) == (video.shape, 50.0, None, None)
        assert found.warnings == ()
    found = read_cine(dicom_bytes(video, regions=[region(0, 0, 31, 23)]), "a DICOM file")
    assert np.array_equal(found.video, video)
    assert (found.fps, found.spacing_mm, found.pseudonym) == (pytest.approx(50.0), pytest.approx(0.5), None)
    named = read_cine(dicom_bytes(video), "a DICOM file", salt="a secret of the data set")
    assert named.pseudonym.startswith("dicom-")
    assert named.warnings == ("a DICOM file may show text burned into its pixels",)


def test_a_cine_that_cannot_be_read_says_why():
    with pytest.raises(ClipError, match=r"^a is not a readable video \(5 bytes\)"):
        read_cine(b"prose", "a")
    with pytest.raises(ClipError, match=r"^a DICOM file is not a readable DICOM file"):
        read_cine(bytes(128) + b"DICM" + b"prose" * 9, "a DICOM file")
    with pytest.raises(InputError, match="the salt of pseudonyms has 5 characters"):
        read_cine(dicom_bytes(), "a DICOM file", salt="short")
