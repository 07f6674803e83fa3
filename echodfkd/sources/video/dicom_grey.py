"""Which grey level a stored value of a DICOM file is shown as: one table for all values of a file.

Names and formulas are those of DICOM PS3.3: modality transformation C.11.1, window C.11.2, palettes C.7.6.3.1.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.dicom_elements import items_of, number_of, numbers_of, value_of

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Luma of red, green and blue, ITU-R BT.601."""
LEAST_SHARE = 1 / 16
"""Values above 8 bits that no window scales must fill this share of what their bits can hold."""


def grey_table(dataset: Any, stored: int, signed: bool, name: str) -> np.ndarray:
    """Grey level of each stored value, uint8 (2 ^ stored bits,); negative ones stand behind the others.

    Raises:
        ClipError: a lookup table that is not read, or a rescale, window or palette that makes no sense.
    """
    if value_of(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        return _palette(dataset, stored, signed, name)
    for key, title in (("ModalityLUTSequence", "modality"), ("VOILUTSequence", "value of interest")):
        if items_of(dataset, key, 1):
            raise ClipError(f"{name} has a {title} lookup table, which is not read; expected a rescale or a window")
    values = _stored_values(stored, signed)
    slope, intercept = number_of(dataset, "RescaleSlope"), number_of(dataset, "RescaleIntercept") or 0.0
    slope = 1.0 if slope is None else slope
    if slope == 0:
        raise ClipError(f"{name} has the rescale slope 0, which makes all pixels equal")
    values = values * slope + intercept
    shown = _windowed(dataset, values, name) if has_window(dataset) else _stretched(values)
    inverted = value_of(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    return np.rint(255.0 * (1.0 - shown if inverted else shown)).astype(np.uint8)


def has_window(dataset: Any) -> bool:
    """Whether a file says which of its values are shown as black and as white."""
    return number_of(dataset, "WindowCenter") is not None and number_of(dataset, "WindowWidth") is not None


def _stored_values(stored: int, signed: bool) -> np.ndarray:
    values = np.arange(1 << stored, dtype=np.float64)
    return np.where(values >= 1 << (stored - 1), values - (1 << stored), values) if signed else values


def _stretched(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / (high - low)


def _windowed(dataset: Any, values: np.ndarray, name: str) -> np.ndarray:
    """0..1 of values by the first window."""
    centre, width = number_of(dataset, "WindowCenter") or 0.0, number_of(dataset, "WindowWidth") or 0.0
    function = str(value_of(dataset, "VOILUTFunction") or "LINEAR")
    if function == "LINEAR" and width >= 1:
        if width == 1:
            return (values > centre - 0.5).astype(np.float64)
        return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    if function == "SIGMOID" and width > 0:
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)))
    raise ClipError(f"{name} has a window of width {width:g} that none of LINEAR, LINEAR_EXACT and SIGMOID allows")


def _palette(dataset: Any, stored: int, signed: bool, name: str) -> np.ndarray:
    colours = [_palette_of(dataset, colour, name) for colour in ("Red", "Green", "Blue")]
    values = _stored_values(stored, signed).astype(np.int64)
    luma = np.zeros(len(values), np.float32)
    for weight, (first, levels) in zip(LUMA, colours, strict=True):
        luma += weight * levels[np.clip(values - first, 0, len(levels) - 1)]
    return np.rint(luma).astype(np.uint8)


def _palette_of(dataset: Any, colour: str, name: str) -> tuple[int, np.ndarray]:
    """First stored value that one colour's table maps, and its levels as float32 0..255."""
    key = f"{colour}PaletteColorLookupTable"
    descriptor = [int(number) for number in numbers_of(dataset, f"{key}Descriptor", 3)]
    data, segmented = (value_of(dataset, f"{prefix}{key}Data") for prefix in ("", "Segmented"))
    if len(descriptor) < 3 or not isinstance(data or segmented, bytes) or descriptor[2] not in (8, 16):
        raise ClipError(f"{name} has no whole palette: its colour {colour.lower()} cannot be read")
    entries = descriptor[0] & 0xFFFF or 1 << 16  # 0 stands for 65536, which 16 bits cannot hold
    signed = number_of(dataset, "PixelRepresentation") == 1
    first = descriptor[1] - (1 << 16) if descriptor[1] >= 1 << 15 and signed else descriptor[1]
    swapped = dataset.original_encoding[1] is False
    if data and descriptor[2] == 8 and len(data) in (entries, entries + 1):
        pairs = np.frombuffer(data[: len(data) // 2 * 2], np.uint16)
        levels = np.frombuffer((pairs.byteswap() if swapped else pairs).tobytes() + data[len(pairs) * 2 :], np.uint8)
        return first, levels[:entries].astype(np.float32)
    source = data or segmented
    words = np.frombuffer(source[: len(source) // 2 * 2], ">u2" if swapped else "<u2").astype(np.int64)
    words = words[:entries] if data else _expanded(words.tolist(), entries)
    if len(words) < entries:
        raise ClipError(f"{name} has {len(words)} of {entries} levels of the colour {colour.lower()} in its palette")
    # Levels of 8 bits stand in the low byte, or as those of 16 bits in the high one.
    return first, (words if descriptor[2] == 8 and words.max() < 256 else words >> 8).astype(np.float32)


def _expanded(words: list[int], entries: int) -> np.ndarray:
    """Levels of a segmented table, at most ``entries`` (C.7.9.2); it ends at the first segment that is not whole.

    Segments are discrete (0, count, levels), linear from the level before (1, count, last level), or say that a number
    of segments at a byte of the table is to be repeated here (2, count, low and high word of the place).
    """
    levels: list[int] = []
    todo = [(0, len(words))]  # (place of the next segment, number of segments from there)
    for _ in range(2 * entries):  # each round adds a level or opens a segment that was there before
        if not todo or len(levels) >= entries:
            break
        at, count = todo.pop()
        if count == 0 or at + 2 >= len(words):
            continue
        code, length = words[at], words[at + 1]
        if code == 0:
            levels += words[at + 2 : at + 2 + length]
            todo.append((at + 2 + length, count - 1))
        elif code == 1 and levels:
            levels += np.rint(np.linspace(levels[-1], words[at + 2], length + 1)[1:]).astype(int).tolist()
            todo.append((at + 3, count - 1))
        elif code == 2 and at + 3 < len(words):
            todo += [(at + 4, count - 1), ((words[at + 2] + (words[at + 3] << 16)) // 2, length)]
        else:
            break
    return np.array(levels[:entries], np.int64)
