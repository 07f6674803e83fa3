"""Tracings of several readers: their files, and what is refused."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.annotations import AnnotationFolder
from echodfkd.sources.video.tracing import mask_to_tracing, tracing_to_mask

MASK = np.zeros((112, 112), bool)
MASK[30:80, 40:70] = True


@pytest.fixture
def folder(tmp_path):
    rows = mask_to_tracing(MASK)
    for number, kept in ((0, 21), (2, 17), (10, 20)):
        np.save(tmp_path / f"0X1A.diastol.label{number}.npy", rows[:kept] + number / 10)
    np.save(tmp_path / "0X1A.systol.label0.npy", np.rint(rows).astype(np.int32))
    (tmp_path / "notes.txt").write_text("no tracing")
    return tmp_path


def test_every_reader_in_the_order_of_their_numbers_and_any_number_of_rows(folder):
    found = AnnotationFolder(str(folder))
    masks = found.masks("0X1A", "ed", 112, 112)
    rows = mask_to_tracing(MASK)
    assert masks.shape == (3, 112, 112)
    for mask, (number, kept) in zip(masks, ((0, 21), (2, 17), (10, 20)), strict=True):
        assert np.array_equal(mask, tracing_to_mask(rows[:kept] + number / 10, 112, 112))
    assert found.masks("0X1A", "es", 112, 112).shape[0] == 1
    assert found.masks("0X2B", "es", 90, 80).shape == (0, 90, 80)


def npy(array: np.ndarray, **changes: object) -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array_header_1_0(sink, {**np.lib.format.header_data_from_array_1_0(array), **changes})
    return sink.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a tracing"),
        (pickle.dumps([1, 2]), "not a tracing"),
        (npy(np.zeros((21, 5))), r"holds an array \(21, 5\), expected \(n, 4\)"),
        (npy(np.zeros((21, 4)), shape=(1 << 40, 4)), "672 bytes do not fit"),
        (npy(np.zeros((21, 4)), descr="|O"), "type object, expected numbers"),
        (npy(np.zeros((21, 4)), shape=(20, 4)), "672 bytes do not fit"),
        (npy(np.zeros((200, 4))), "has 200 rows"),
        (npy(np.full((21, 4), np.nan)), "not a number"),
        (npy(np.zeros((2, 4))), "has no area"),
        (bytes(1 << 17), "at most 65536 are read"),
    ],
)
def test_files_that_are_no_tracings(folder, data, words):
    (folder / "0X1A.diastol.label1.npy").write_bytes(data)
    with pytest.raises(ClipError, match=words):
        AnnotationFolder(str(folder)).masks("0X1A", "ed", 112, 112)


def test_folders_without_tracings(tmp_path):
    with pytest.raises(InputError, match=r"holds no tracings; expected files like 0X1A.diastol.label0.npy"):
        AnnotationFolder(str(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        AnnotationFolder(str(tmp_path / "nowhere"))
