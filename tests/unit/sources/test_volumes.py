"""Volumes: pixels and spacing come out as they went in, and a header that lies is refused before it costs anything."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.volumes import read_metaimage, read_nifti
from tests.helpers.camus import SPACING, half_cycle, metaimage_header, write_metaimage, write_nifti

VIDEO, LABELS = half_cycle(num_frames=4, height=30, width=20)


def read_mhd(path):
    return read_metaimage(path.read_bytes(), lambda file: (path.parent / file).read_bytes(), path.name)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("dtype", "kind"), [("u1", "MET_UCHAR"), ("<i2", "MET_SHORT"), ("<f4", "MET_FLOAT")])
def test_metaimage_gives_what_was_written(tmp_path, compressed, dtype, kind):
    write_metaimage(tmp_path / "a.mhd", VIDEO.astype(dtype), compressed=compressed, ElementType=kind)
    found = read_mhd(tmp_path / "a.mhd")
    assert np.array_equal(found.values, VIDEO)
    assert found.spacing_mm == SPACING


def test_metaimage_of_big_numbers_first_and_of_one_plane(tmp_path):
    write_metaimage(tmp_path / "a.mhd", VIDEO.astype(">u2"), ElementType="MET_USHORT", BinaryDataByteOrderMSB=True)
    assert np.array_equal(read_mhd(tmp_path / "a.mhd").values, VIDEO)
    write_metaimage(
        tmp_path / "b.mhd", VIDEO[:1], NDims=2, DimSize="20 30", ElementSpacing=f"{SPACING[1]} {SPACING[0]}"
    )
    assert np.array_equal(read_mhd(tmp_path / "b.mhd").values, VIDEO[:1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DimSize": "20 30 4000000"}, "promises 4000000 frames of 20 x 30 pixels, allowed are"),
        ({"DimSize": "99999 99999 1"}, "allowed are 4194304 pixels in a frame"),
        ({"DimSize": "20 30 5"}, "holds 2400 bytes of pixels or more, a.mhd promises 3000"),
        ({"DimSize": "20 30 3"}, "holds 2400 bytes of pixels or more, a.mhd promises 1800"),
        ({"DimSize": "20 -30 4"}, "DimSize is '20 -30 4', expected numbers above 0"),
        ({"DimSize": "20 nan 4"}, "expected numbers above 0"),
        ({"DimSize": "20 30.5 4"}, "expected columns, rows"),
        ({"DimSize": "20 30 2 2"}, "expected columns, rows"),
        ({"DimSize": None}, "has no DimSize"),
        ({"NDims": 2}, "NDims is '2', but DimSize has 3"),
        ({"ElementType": "MET_STRING"}, "ElementType is 'MET_STRING', expected one of MET_UCHAR"),
        ({"ElementNumberOfChannels": 3}, "ElementNumberOfChannels is '3', expected 1"),
        ({"HeaderSize": -1}, "HeaderSize is '-1', expected 0"),
        ({"ElementDataFile": "/etc/passwd"}, "expected the plain name of a .raw or .zraw file"),
        ({"ElementDataFile": "../a.raw"}, "expected the plain name"),
        ({"ElementDataFile": "LOCAL"}, "expected the plain name"),
        ({"ElementDataFile": "LIST"}, "expected the plain name"),
        ({"CompressedData": "maybe"}, "CompressedData is 'maybe', expected True or False"),
        ({"CompressedData": True}, "its compressed pixels cannot be inflated"),
        ({"ElementSpacing": "0.3"}, "ElementSpacing is '0.3'"),
        ({"ElementSpacing": "0.3 1e9 1"}, "pixels of 0.3 x 1e\\+09 mm, expected 0.001 .. 10"),
    ],
)
def test_a_metaimage_header_that_lies(tmp_path, changes, words):
    write_metaimage(tmp_path / "a.mhd", VIDEO)
    (tmp_path / "a.mhd").write_text(metaimage_header(VIDEO, "a.raw", **changes))
    with pytest.raises(ClipError, match=words):
        read_mhd(tmp_path / "a.mhd")


@pytest.mark.parametrize("header", [b"\x00\x01", b"DimSize = 1 1\nDimSize = 2 2\n", b"x" * 70_000, b"a b = 3\n", b""])
def test_what_is_no_metaimage_header(header):
    with pytest.raises(ClipError):
        read_metaimage(header, lambda file: b"", "a.mhd")


def test_a_small_file_that_inflates_to_a_large_one_is_refused_at_its_promise():
    bomb = zlib.compress(bytes(1 << 25))
    header = metaimage_header(VIDEO, "a.zraw").encode()
    with pytest.raises(ClipError, match="holds 2401 bytes of pixels or more"):
        read_metaimage(header, lambda file: bomb, "a.mhd")


def test_values_that_are_no_grey_levels(tmp_path):
    for value in (300, -1, np.nan):
        frames = VIDEO.astype("<f4")
        frames[0, 0, 0] = value
        write_metaimage(tmp_path / "a.mhd", frames, ElementType="MET_FLOAT")
        with pytest.raises(ClipError, match=r"values outside of 0 .. 255"):
            read_mhd(tmp_path / "a.mhd")


@pytest.fixture
def nifti(tmp_path):
    pytest.importorskip("nibabel")
    write_nifti(tmp_path / "a.nii.gz", VIDEO)
    return bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))


def test_nifti_gives_what_was_written(tmp_path, nifti):
    for data in (bytes(nifti), gzip.compress(nifti)):
        found = read_nifti(data, "a.nii.gz")
        assert np.array_equal(found.values, VIDEO)
        assert found.spacing_mm == pytest.approx(SPACING, abs=1e-6)  # float32 there
    write_nifti(tmp_path / "b.nii.gz", LABELS[:1])
    assert np.array_equal(read_nifti((tmp_path / "b.nii.gz").read_bytes(), "b").values, LABELS[:1])


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (40, np.array([3, 20, 30, 32000], "<i2"), "holds .* bytes, its header promises"),
        (40, np.array([3, 32000, 32000, 4], "<i2"), "promises 4 frames of 32000 x 32000 pixels, allowed are"),
        (40, np.array([3, 20, -30, 4], "<i2"), "frames of 20 x -30 pixels, which is nothing|not a readable NIfTI"),
        (40, np.array([5, 20, 30, 2, 2, 2], "<i2"), "has 5 axes, expected"),
        (40, np.array([900], "<i2"), "not a readable NIfTI|has .* axes"),
        (70, np.array([4321], "<i2"), "not a readable NIfTI|cannot be read"),  # a data type that there is none of
        (70, np.array([32], "<i2"), "header promises|stores values of type complex64"),
        (80, np.array([np.nan], "<f4"), "pixels of .* mm, expected"),
        (108, np.array([1e30], "<f4"), "pixels at byte 1e\\+30|cannot be read"),
        (112, np.array([500.0], "<f4"), "outside of 0 .. 255"),
    ],
)
def test_a_nifti_header_that_lies(nifti, place, value, words):
    data = value.tobytes()
    nifti[place : place + len(data)] = data
    for file in (bytes(nifti), gzip.compress(nifti)):
        with pytest.raises(ClipError, match=words):
            read_nifti(file, "a.nii.gz")


def test_nifti_of_the_second_version_and_of_two_files(nifti):
    import nibabel

    image = nibabel.Nifti2Image(VIDEO.transpose(2, 1, 0), np.eye(4))
    image.header.set_zooms((SPACING[1], SPACING[0], 1.0))
    for data in (image.to_bytes(), gzip.compress(image.to_bytes())):
        found = read_nifti(data, "a.nii")
        assert np.array_equal(found.values, VIDEO)
        assert found.spacing_mm == pytest.approx(SPACING)
    for data, at, magic in ((bytes(nifti), 344, b"ni1"), (image.to_bytes(), 4, b"ni2")):
        pair = data[:at] + magic + data[at + 3 :]
        with pytest.raises(ClipError, match="a is a NIfTI header whose pixels lie in another file"):
            read_nifti(pair, "a")


@pytest.mark.parametrize("factor", [1 / 255, 0.37, 1 / 7])
def test_values_that_were_scaled_or_interpolated_are_no_grey_levels(tmp_path, factor):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image((VIDEO * np.float32(factor)).transpose(2, 1, 0), np.eye(4))
    with pytest.raises(ClipError, match=r"a holds the value \d+\.?\d*, expected whole grey levels .* scaled or interp"):
        read_nifti(image.to_bytes(), "a")
    write_metaimage(tmp_path / "a.mhd", (VIDEO * factor).astype("<f8"), ElementType="MET_DOUBLE")
    with pytest.raises(ClipError, match="expected whole grey levels"):
        read_mhd(tmp_path / "a.mhd")


def test_a_slope_that_rounds_gives_the_stored_levels():
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(VIDEO.transpose(2, 1, 0).astype(np.int16) * 10, np.eye(4))
    image.header.set_slope_inter(0.1, 0)
    assert np.array_equal(read_nifti(image.to_bytes(), "a").values, VIDEO)


def test_damaged_nifti(nifti):
    for data in (b"", b"\x1f\x8b", b"no image", gzip.compress(nifti)[:-200], bytes(nifti[:400])):
        with pytest.raises(ClipError, match=r"a\.nii"):
            read_nifti(data, "a.nii")


@pytest.mark.parametrize("seed", range(2))
def test_random_damage_is_read_or_refused(nifti, seed, tmp_path):
    """Bytes of both headers changed at random: a volume of a sane shape, or a `ClipError`."""
    rng = np.random.default_rng(seed)
    header = metaimage_header(VIDEO, "a.raw").encode()
    for _ in range(80):
        bad = bytearray(nifti)
        for place in rng.integers(0, 352, rng.integers(1, 5)):
            bad[place] = rng.integers(0, 256)
        text = bytearray(header)
        text[rng.integers(0, len(text))] = rng.integers(0, 256)
        for read in (
            lambda bad=bad: read_nifti(bytes(bad), "a"),
            lambda text=text: read_metaimage(bytes(text), lambda file: VIDEO.tobytes(), "a"),
        ):
            try:
                found = read()
            except ClipError:
                continue
            assert found.values.dtype == np.uint8
            assert found.values.ndim == 3
