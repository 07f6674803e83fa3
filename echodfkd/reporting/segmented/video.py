"""The files of one segmented video: masks, curves, beats, overlay, and a page that holds them together.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from echodfkd.inference.segmentation import Segmentation
from echodfkd.metrics.spacing import pixel_sides
from echodfkd.reporting.figures.chart_style import INK, dress, new_figure
from echodfkd.reporting.figures.overlays import draw_overlay
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.page.page import render, write_files
from echodfkd.reporting.page.table import Cell, Column, Table
from echodfkd.reporting.segmented.mask_files import mask_files
from echodfkd.sources.video.encode import encode_mp4
from echodfkd.storage.files import RunStorage

PAGE = "report.html"
_DRAWN_PX, _DRAWN_BYTES = 640, 400_000_000
"""Longest side of the overlay's picture, and most bytes of all its frames: long videos are drawn smaller."""
_SLOWEST_FPS = 25.0
"""Rate of the overlay of a video whose own is unknown."""


def write_video(storage: RunStorage, name: str, found: Segmentation, formats: Sequence[str]) -> None:
    """Write everything about one video: masks, ``overlay.mp4``, curve and beats in ``report/``, the page.

    Args:
        storage: the video's own folder.
        name: of the video.
        found: its masks.
        formats: some of `mask_files.FORMATS`.

    Raises:
        InputError: a format needs a package that is not installed.
    """
    for file, data in mask_files(name, found, formats):
        storage.write(file, data)
    curve, beats, mp4 = area_chart(found), beat_table(found), overlay_mp4(found)
    storage.write("overlay.mp4", mp4)
    write_files(storage, [curve, beats])
    page = render(
        "segmented.html",
        title=name,
        refresh_s=0.0,
        facts=shown_facts(found),
        notes=found.sentences,
        chart=curve.on_page(),
        beats=beats,
        mp4=base64.b64encode(mp4).decode(),
    )
    storage.write(PAGE, page.encode())


def video_facts(found: Segmentation) -> dict[str, Any]:
    """What is known of a video, JSON values; None if it is not."""
    rhythm = found.rhythm
    seconds = len(found.video) / found.fps if found.fps else None
    down, across = (None, None) if found.spacing_mm is None else pixel_sides(found.spacing_mm)
    return {
        "frames": len(found.video),
        "height": found.video.shape[1],
        "width": found.video.shape[2],
        "fps": found.fps or None,
        "seconds": seconds,
        "spacing_mm": down,
        "spacing_across_mm": across,
        "beats": len(rhythm.beats),
        "heart_rate_bpm": _known(rhythm.heart_rate_bpm),
        "ef_percent": _known(rhythm.ef_percent),
        "stray_share": _known(found.stray_share),
        "empty_frames": int((found.area == 0).sum()),
        "doubt": found.doubt,
        "flags": {flag.name: flag.sentence for flag in found.flags},
    }


def shown_facts(found: Segmentation) -> dict[str, str]:
    """The facts as a page words them."""
    facts = video_facts(found)
    stray = facts["stray_share"]
    given = {
        "frames": f"{facts['frames']} of {facts['width']} x {facts['height']} pixels",
        "rate": _with_unit(facts["fps"], "frames/s"),
        "pixel": _pixel(found),
        "heart rate": _with_unit(facts["heart_rate_bpm"], "/min"),
        "beats": str(facts["beats"]),
        "EF": _with_unit(facts["ef_percent"], "%"),
        "mask outside its largest part": _with_unit(None if stray is None else 100 * stray, "%"),
        "doubt": f"{facts['doubt']:.1f}" + (f" (flags: {', '.join(facts['flags'])})" if facts["flags"] else ""),
    }
    empty = facts["empty_frames"]
    return {**given, "frames without a ventricle": str(empty)} if empty else given


def _pixel(found: Segmentation) -> str:
    """Its side, or height and width, or their ratio."""
    down, across = pixel_sides(found.sides)
    if not found.spacing_mm:
        return "unknown" if down == across else f"{across / down:.3g} times as wide as high"
    return f"{down:.3g} mm" if down == across else f"{down:.3g} mm high, {across:.3g} mm wide"


def _with_unit(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.3g} {unit}"


def overlay_mp4(found: Segmentation) -> bytes:
    """`overlay_frames` as MP4."""
    return encode_mp4(overlay_frames(found), found.fps or _SLOWEST_FPS)


def overlay_frames(found: Segmentation) -> np.ndarray:
    """The video with the ventricle's contour, its area below, ticks at ED and ES: uint8 RGB (T, h, w, 3)."""
    longest = max(found.video.shape[1:])
    side = min(_DRAWN_PX, math.sqrt(_DRAWN_BYTES / (3 * len(found.video))))
    return draw_overlay(
        found.video,
        {"student": found.mask()},
        scale=min(4.0, side / longest),
        ed_frames=found.rhythm.ed_frames,
        es_frames=found.rhythm.es_frames,
    )


def area_chart(found: Segmentation) -> Chart:
    """Area over time with the events; its rows are one per frame."""
    unit = "mm2" if found.spacing_mm else "px"
    events = {frame: "ED" for frame in found.rhythm.ed_frames} | {frame: "ES" for frame in found.rhythm.es_frames}
    area = found.area
    time = np.arange(len(area)) / found.fps if found.fps else np.arange(len(area))
    rows = [
        {
            "frame": frame,
            "time_s": float(time[frame]) if found.fps else None,
            f"area_{unit}": float(area[frame]),
            "event": events.get(frame, ""),
        }
        for frame in range(len(area))
    ]
    figure = new_figure(width=8.0, height=2.8)
    axes = figure.subplots()
    axes.plot(time, area, color=INK, linewidth=1.4)
    for label, frames, colour, marker in (
        ("end-diastole", found.rhythm.ed_frames, "#0072b2", "v"),
        ("end-systole", found.rhythm.es_frames, "#d55e00", "^"),
    ):
        axes.plot(time[list(frames)], area[list(frames)], marker, color=colour, markersize=7, label=label)
    axes.set_ylim(bottom=0)
    dress(axes, "seconds" if found.fps else "frame", "area, mm²" if found.spacing_mm else "area, pixels")
    if found.rhythm.ed_frames or found.rhythm.es_frames:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="lower right", ncols=2)
    caption = f"{len(area)} frames; events are found in this curve, nobody has marked them."
    return Chart("area", "Area of the left ventricle", caption, figure, rows)


def beat_table(found: Segmentation) -> Table:
    """One row per beat."""
    unit = "mL" if found.spacing_mm else "px3"
    rows = [
        {
            "beat": number,
            "ed_frame": beat.ed_frame,
            "es_frame": beat.es_frame,
            f"edv_{unit}": beat.edv,
            f"esv_{unit}": beat.esv,
            "ef_percent": beat.ef_percent,
        }
        for number, beat in enumerate(found.rhythm.beats, 1)
    ]
    columns = [Column("beat", True), Column("ED frame", True), Column("ES frame", True)]
    columns += [Column(f"EDV, {unit}", True), Column(f"ESV, {unit}", True), Column("EF, %", True)]
    cells = [
        [_number(value, 1 if key.startswith(("edv", "esv", "ef")) else 0) for key, value in row.items()] for row in rows
    ]
    note = "Volumes by the area-length formula of one plane. EF needs no pixel size."
    empty = "No beat was found: no end-diastole is followed by an end-systole."
    return Table("beats", "Beats", columns, cells, rows, empty=empty, note=note)


def _number(value: float, digits: int) -> Cell:
    return Cell(f"{value:,.{digits}f}", value) if math.isfinite(value) else Cell("–")


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
