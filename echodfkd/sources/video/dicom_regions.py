"""The parts of an ultrasound image that show tissue, and their scale (DICOM PS3.3, C.8.5.5).

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.metrics.spacing import SQUARE, Spacing, pixel_sides, spacing_of
from echodfkd.sources.video.dicom_elements import items_of, number_of, numbers_of
from echodfkd.sources.video.windows import aspect_note

_MAX_REGIONS = 64
_TWO_DIMENSIONAL, _M_MODE, _SPECTRAL = 1, 2, 3  # Region Spatial Format
_COLOUR_FLOW = 2  # Region Data Type
_CENTIMETRES = 3  # Physical Units X (Y) Direction
_LEAST_SIDE = 8
"""Least side of a region in pixels: a smaller one shows no heart, and corners that are all 0 are none."""
_DARK = 0.25
"""A region is not where the picture is if it is this much darker than the rest, which is mostly black."""


@dataclass(frozen=True)
class Picture:
    """What the regions of a file say.

    ``inside`` is bool (H, W), true in the two-dimensional regions, or None if there are none or they cannot be right.
    ``spacing_mm`` is that of a pixel of the largest, or None. ``warnings`` are ends of sentences. ``pixel_aspect`` is
    the width of a pixel over its height, 1 if the file does not say it.
    """

    inside: np.ndarray | None
    spacing_mm: Spacing | None
    warnings: tuple[str, ...]
    pixel_aspect: float = 1.0


@dataclass(frozen=True)
class _Region:
    rows: slice
    columns: slice
    spacing_mm: tuple[float, float] | None

    @property
    def area(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


def find_picture(dataset: Any, video: np.ndarray) -> Picture:
    """Hold the regions of a file against its frames, uint8 (T, H, W)."""
    items = items_of(dataset, "SequenceOfUltrasoundRegions", _MAX_REGIONS)
    formats = {number_of(item, "RegionSpatialFormat") for item in items}
    said = [f"shows {text} beside the picture" for kind, text in _OTHERS.items() if kind in formats]
    flow = number_of(dataset, "UltrasoundColorDataPresent") == 1
    if flow or any(number_of(item, "RegionDataType") == _COLOUR_FLOW for item in items):
        said.append("shows data as colours (flow, or velocity of tissue), which are grey as bright as they are here")
    flat = [item for item in items if number_of(item, "RegionSpatialFormat") == _TWO_DIMENSIONAL]
    inside, spacing = _scaled(flat, video, said) if flat else (None, None)
    aspect = _pixel_aspect(dataset)
    said += aspect_note(aspect) if spacing is None else _contradiction(aspect, spacing)
    return Picture(inside, spacing, tuple(said), aspect)


def _scaled(flat: list[Any], video: np.ndarray, said: list[str]) -> tuple[np.ndarray | None, Spacing | None]:
    """The pixels in two-dimensional regions and the spacing of the largest; adds ends of sentences to ``said``."""
    found = [_region(item, *video.shape[1:]) for item in flat]
    regions = [region for region in found if region is not None]
    inside = np.zeros(video.shape[1:], bool)
    for region in regions:
        inside[region.rows, region.columns] = True
    if len(regions) < len(found) or not _is_lit(video, inside):
        said.append("has ultrasound regions that do not fit its pixels, so that its scale is not known")
        return None, None
    if (count := _apart(regions)) > 1:
        said.append(f"shows {count} pictures side by side; the scale is that of the largest")
    largest = max(regions, key=lambda region: region.area)
    across, down = largest.spacing_mm or (0.0, 0.0)
    spacing = spacing_of(down, across) if across and down else None
    if across and down and spacing is None:
        said.append(f"has pixels {down:.4g} mm high and {across:.4g} mm wide, which cannot be; its scale is not given")
    return inside, spacing


def _pixel_aspect(dataset: Any) -> float:
    """Width of a pixel over its height (PS3.3, C.7.6.3.1.7: vertical, then horizontal size); 1 if it is not said."""
    sizes = numbers_of(dataset, "PixelAspectRatio", 2)
    return sizes[1] / sizes[0] if len(sizes) == 2 and min(sizes) > 0 else 1.0


def _contradiction(aspect: float, spacing_mm: Spacing) -> list[str]:
    """The end of a sentence if the aspect ratio, which is 1 without one, is not that of the lengths."""
    down, across = pixel_sides(spacing_mm)
    if aspect == 1.0 or abs(aspect * down / across - 1.0) <= SQUARE:
        return []
    return [
        f"has pixels {aspect:.3g} times as wide as high, and {across / down:.3g} times by their lengths, which count"
    ]


_OTHERS = {_M_MODE: "an M-mode trace", _SPECTRAL: "a spectral Doppler trace"}


def _region(item: Any, height: int, width: int) -> _Region | None:
    """A two-dimensional region; None if it does not lie in the image."""
    corners = [number_of(item, f"RegionLocation{key}") for key in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if any(corner is None for corner in corners):
        return None
    left, top, right, bottom = (int(corner) for corner in corners if corner is not None)
    # The standard's bounds include both corners; some machines write the first pixel beyond.
    if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
        return None
    right, bottom = min(right + 1, width), min(bottom + 1, height)
    if right - left < _LEAST_SIDE or bottom - top < _LEAST_SIDE:
        return None
    return _Region(slice(top, bottom), slice(left, right), _spacing(item))


def _spacing(region: Any) -> tuple[float, float] | None:
    """Sides of a region's pixels in millimetres, across and down; None if they are not in centimetres."""
    units = [number_of(region, f"PhysicalUnits{axis}Direction") for axis in "XY"]
    across, down = (10.0 * abs(number_of(region, f"PhysicalDelta{axis}") or 0.0) for axis in "XY")
    return (across, down) if units == [_CENTIMETRES, _CENTIMETRES] else None


def _is_lit(video: np.ndarray, inside: np.ndarray) -> bool:
    light = video.mean(0, dtype=np.float64)
    if inside.all() or not light.any():
        return True
    return bool(light[inside].mean() > _DARK * light[~inside].mean())


def _apart(regions: list[_Region]) -> int:
    """Number of pictures: regions that overlap, as tissue and its colour flow do, are one."""
    pictures: list[_Region] = []
    for region in sorted(regions, key=lambda one: -one.area):
        if not any(_overlap(region, other) for other in pictures):
            pictures.append(region)
    return len(pictures)


def _overlap(a: _Region, b: _Region) -> bool:
    return all(
        one.start < other.stop and other.start < one.stop
        for one, other in ((a.rows, b.rows), (a.columns, b.columns))
    )  # fmt: skip
