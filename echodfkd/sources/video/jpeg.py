"""The segments of JPEG streams, read without decoding (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterator

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


def picture_layout(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """The segments of a picture, with the numbers of its tables in place of their values; empty if it has no scan.

    A picture sets in a decoder what its segments name. Pictures of one layout set the same parts, so that none of them
    takes anything from another, whatever else a decoder keeps.
    """
    head, scan, rest = data.partition(_SCAN_BEGINS)
    ends = rest.count(b"\xff\xd9")
    if ends <= 1 and rest.count(b"\xff") == rest.count(b"\xff\x00") + ends:  # no more segments: what most files hold
        data = head + scan + rest[: int.from_bytes(rest[:2], "big")]
    layout, has_scan = [], False
    for marker, content in segments(data):
        if marker == _QUANTISATION:
            content = _quantisation_tables(content)
        elif marker == _HUFFMAN:
            content = _huffman_tables(content)
        has_scan |= marker == _SCAN
        if marker != _END:  # some machines leave it out
            layout.append((marker, content))
    return tuple(layout) if has_scan else ()


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
