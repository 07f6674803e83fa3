"""The segments of JPEG streams, read without decoding (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_NEXT = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""The next marker outside coded data, in which 0xFF is followed by 0 or by the number of a restart."""
_QUANTISATION, _HUFFMAN, _SCAN, _END = 0xDB, 0xC4, 0xDA, 0xD9
_SCAN_BEGINS = bytes((0xFF, _SCAN))
_NO_MARKERS = frozenset((0x00, 0xFF, *range(0xD0, 0xD8)))
_BARE = (0xD8, _END, 0x01)
"""Markers without content: start, end, and one of arithmetic coding."""


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """All (marker, content) of a stream, without the coded data. Ends at the first segment that is not whole."""
    at, size = 0, len(data)
    while at + 1 < size:
        marker = data[at + 1]
        if data[at] != 0xFF or marker in _NO_MARKERS:
            found = _NEXT.search(data, at)
            if found is None:
                return
            at, marker = found.end() - 2, data[found.end() - 1]
        at += 2
        if marker in _BARE:
            yield marker, b""
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > size:
            return
        yield marker, data[at + 2 : at + length]
        at += length


def of_one_layout(pictures: Iterable[bytes]) -> bool:
    """Whether all pictures have the same segments, but for the values in their tables; damaged ones do not count.

    A picture sets in a decoder what its segments name. Pictures of one layout set the same parts, so that none of them
    takes anything from another, whatever else a decoder keeps.
    """
    head = b""
    first: tuple[tuple[int, bytes], ...] = ()
    for data in pictures:
        if head and data.startswith(head) and _only_coded(data, len(head)):  # most machines repeat all but the pixels
            continue
        start, layout = _layout(data)
        if layout and first and layout != first:
            return False
        if layout:
            head, first = start, layout
    return bool(first)


def _layout(data: bytes) -> tuple[bytes, tuple[tuple[int, bytes], ...]]:
    """All before the coded data, and the segments with numbers of tables for their values; empty without a scan."""
    scan = data.find(_SCAN_BEGINS)
    head = data[: scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")] if scan >= 0 else b""
    layout, has_scan = [], False
    for marker, content in segments(head if _only_coded(data, len(head)) else data):
        if marker == _QUANTISATION:
            content = _quantisation_tables(content)
        elif marker == _HUFFMAN:
            content = _huffman_tables(content)
        has_scan |= marker == _SCAN
        if marker != _END:  # some machines leave it out
            layout.append((marker, content))
    return head, tuple(layout) if has_scan else ()


def _only_coded(data: bytes, start: int) -> bool:
    """Whether only coded data without restarts follow, and the end of the picture."""
    return data.count(b"\xff", start) - data.count(b"\xff\x00", start) == (data.rfind(b"\xff\xd9", -4) >= 0)


def _quantisation_tables(content: bytes) -> bytes:
    """Precision and number in a byte, then 64 values of one byte or of two."""
    numbers = bytearray()
    while content:
        numbers.append(content[0])
        content = content[129 if content[0] >> 4 else 65 :]
    return bytes(numbers)


def _huffman_tables(content: bytes) -> bytes:
    """Class and number in a byte, 16 counts, then as many values."""
    numbers = bytearray()
    while content:
        numbers.append(content[0])
        content = content[17 + sum(content[1:17]) :]
    return bytes(numbers)
