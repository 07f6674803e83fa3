"""Read .npy files without trust: only numbers, nothing unpickled, sizes checked first."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np

_HEADERS: dict[tuple[int, int], Callable[[Any], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def parse_npy(data: bytes) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        ValueError: it is not a .npy file, holds anything but numbers, or its length does not fit its shape.
    """
    source = io.BytesIO(data)
    version = np.lib.format.read_magic(source)
    if version not in _HEADERS:
        raise ValueError(f"its format has the version {version}")
    try:
        shape, fortran, dtype = _HEADERS[version](source)
    except Exception as error:  # a header is Python source for literals: its tokeniser and parser have their own errors
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from error
    if dtype.kind not in "fiub":
        raise ValueError(f"it holds values of type {dtype}, expected numbers")
    pixels = data[source.tell() :]
    if any(size < 0 for size in shape) or len(pixels) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"its {len(pixels)} bytes do not fit {dtype} {shape}")
    return np.frombuffer(pixels, dtype).reshape(shape, order="F" if fortran else "C")
