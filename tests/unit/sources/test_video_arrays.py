"""numpy's own files without numpy's loader."""

from __future__ import annotations

import io

import numpy as np
import pytest

from echodfkd.sources.video.arrays import parse_npy


def npy(array: np.ndarray, **options: object) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, **options)
    return sink.getvalue()


@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8", "?"])
def test_arrays_come_back_as_they_were(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for kept in (array, np.asfortranarray(array), array[:, :0]):
        assert np.array_equal(parse_npy(npy(kept)), kept)


def test_objects_and_other_files_are_refused():
    with pytest.raises(ValueError, match="type object, expected numbers"):
        parse_npy(npy(np.array([{}], dtype=object), allow_pickle=True))
    for data in (b"", b"PK\x03\x04", npy(np.zeros(3))[:-1]):
        with pytest.raises(ValueError, match=r"."):
            parse_npy(data)
