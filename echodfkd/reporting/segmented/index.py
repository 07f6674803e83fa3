"""One page and one table over all videos of a folder, from each video's own ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from echodfkd.reporting.page.page import render, write_files
from echodfkd.reporting.page.table import Cell, Column, Table
from echodfkd.reporting.segmented.video import PAGE
from echodfkd.storage.files import RunStorage

_NUMBERS = (
    ("frames", "frames", 0),
    ("fps", "frames/s", 1),
    ("spacing_mm", "pixel, mm", 3),
    ("beats", "beats", 0),
    ("heart_rate_bpm", "rate, /min", 0),
    ("ef_percent", "EF, %", 0),
    ("stray_share", "stray", 3),
    ("empty_frames", "empty frames", 0),
    ("doubt", "doubt", 1),
)


def write_index(storage: RunStorage, results: Sequence[Mapping[str, Any]], facts: Mapping[str, str]) -> str:
    """Write ``index.html`` and ``report/videos.csv``; returns the page's path.

    Args:
        storage: the folder of all videos.
        results: of `echodfkd.runtime.prediction_run`, one per video: ``name``, ``error`` ("" if none), ``notes``,
            ``flags``, and the facts of `video.video_facts` if there is no error. Those at fault come first, then the
            most doubted.
        facts: shown at the top.
    """
    columns = [Column("video"), *(Column(label, True) for _, label, _ in _NUMBERS), Column("notes")]
    cells, rows = [], []
    for result in sorted(results, key=_place):
        name, error = str(result["name"]), str(result["error"])
        flags = dict(result["flags"])
        notes = [error] if error else [*flags.values(), *result["notes"]]
        title = Cell(name, bad=True) if error else Cell(name, href=f"{name}/{PAGE}")
        numbers = [_cell(result.get(key), digits) for key, _, digits in _NUMBERS]
        cells.append([title, *numbers, Cell("; ".join(notes), bad=bool(error or flags))])
        known = {key: result.get(key) for key, _, _ in _NUMBERS}
        rows.append({"video": name, **known, "flags": " ".join(flags), "error": error})
    table = Table("videos", "Videos", columns, cells, rows, empty="There is no video.")
    page = render("segmented_index.html", title="Videos", refresh_s=0.0, facts=facts, videos=table)
    write_files(storage, [table])
    storage.write("index.html", page.encode())
    return f"{storage.root}/index.html"


def _place(result: Mapping[str, Any]) -> tuple[bool, float]:
    """Its place in the table: files at fault, then by doubt."""
    return not result["error"], -(result.get("doubt") or 0.0)


def _cell(value: Any, digits: int) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:,.{digits}f}", value)
