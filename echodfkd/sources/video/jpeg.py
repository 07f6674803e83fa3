"""The segments of JPEG streams, read without decoding (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_NEXT = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""The next marker outside coded data, in which 0xFF is followed by 0 or by the number of a restart."""
_QUANTISATION, _HUFFMAN, _SCAN = 0xDB, 0xC4, 0xDA
_BARE = (0xD8, 0xD9, 0x01)
"""Markers without content: start, end, and one of arithmetic coding."""


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """All (marker, content) of a stream, without the coded data. Ends at the first segment that is not whole."""
    at = 0
    while found := _NEXT.search(data, at):
        marker, at = found.group(1)[0], found.end()
        if marker in _BARE:
            yield marker, b""
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2 or at + length > len(data):
            return
        yield marker, data[at + 2 : at + length]
        at += length


def picture_layout(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """The segments of a picture, with the numbers of its tables in place of their values; empty if it has no scan.

    A picture sets in a decoder what its segments name. Pictures of one layout set the same parts, so that none of them
    takes anything from another, whatever else a decoder keeps.
    """
    head, scan, rest = data.partition(bytes((0xFF, _SCAN)))
    coded = rest.replace(b"\xff\x00", b"")
    if coded.count(b"\xff") == 1 and (b"\xff\xd9" in coded):  # only the end follows: most files repeat all before
        return _layout_of_head(head + scan + rest[: int.from_bytes(rest[:2], "big")] + b"\xff\xd9")
    return _layout(data)


def _layout(data: bytes) -> tuple[tuple[int, bytes], ...]:
    found = tuple((marker, _TABLE_NUMBERS.get(marker, bytes)(content)) for marker, content in segments(data))
    return found if any(marker == _SCAN for marker, _ in found) else ()


_layout_of_head = lru_cache(maxsize=64)(_layout)


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


_TABLE_NUMBERS = {_QUANTISATION: _quantisation_tables, _HUFFMAN: _huffman_tables}
