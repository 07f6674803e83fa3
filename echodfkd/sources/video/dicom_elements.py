"""Elements of a DICOM file as plain values: nothing raises, and nothing of the file is quoted."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def value_of(dataset: Any, key: str) -> Any:
    """An element's value; None if it is absent, empty or unreadable."""
    try:
        value = dataset.get(key)
    except Exception:
        return None
    return None if value is None or (isinstance(value, str | bytes) and not value) else value


def number_of(dataset: Any, key: str) -> float | None:
    """An element as a finite number, of several the first; None if it is not one."""
    numbers = numbers_of(dataset, key, 1)
    return numbers[0] if numbers else None


def numbers_of(dataset: Any, key: str, most: int) -> list[float]:
    """The first ``most`` values of an element as finite numbers; empty if one of them is not a number."""
    value = value_of(dataset, key)
    if value is None:
        return []
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__")
    try:
        numbers = [float(one) for one in (list(value)[:most] if several else [value])]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


def items_of(dataset: Any, key: str, most: int) -> list[Any]:
    """The first items of a sequence; empty if it is absent or unreadable."""
    try:
        return list(dataset.get(key) or ())[:most]
    except Exception:
        return []


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log, which quote values of the file."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


_OTHER_ENCODINGS = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2")
"""Deflated and big-endian files, whose elements are not looked for in their bytes."""
_NUMBER_OF_FRAMES = re.compile(
    rb"\x28\x00\x08\x00(?:IS[\x01-\x0c]\x00|[\x01-\x0c]\x00\x00\x00) *(?P<number>[0-9]{1,12})"
)
_ROWS = re.compile(rb"\x28\x00\x10\x00(?:US\x02\x00|\x02\x00\x00\x00)")


def promises_frames(head: bytes, *, whole: bool) -> bool:
    """Whether a file may hold several frames, by its first bytes and without parsing them.

    Elements stand in the order of their numbers: NumberOfFrames (0028,0008) before Rows (0028,0010).

    Args:
        head: the first bytes of the file.
        whole: these are all its bytes.
    """
    if any(syntax in head for syntax in _OTHER_ENCODINGS):
        return True
    found = _NUMBER_OF_FRAMES.search(head)
    if found is not None:
        return int(found["number"]) > 1
    return not (whole or _ROWS.search(head))
