"""Read folders in the layout of EchoNet-Dynamic, on a local disk or an object store.

``Videos/NAME.avi``, ``FileList.csv`` (one row per video) and ``VolumeTracings.csv`` (21 rows per traced
frame: see `echodfkd.sources.video.tracing`). Layout: Ouyang et al., "Video-based AI for beat-to-beat assessment
of cardiac function", Nature 2020. Frames count from 0.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.decode import DecodedVideo, Window, decode_video
from echodfkd.storage.files import read_inside
from echodfkd.storage.object_store import open_filesystem

FILE_LIST_COLUMNS = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
_REQUIRED = ("FileName", "FPS", "NumberOfFrames", "Split")
TRACING_COLUMNS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
MAX_LIST_BYTES = 1 << 28
"""Largest CSV file; EchoNet-Dynamic's VolumeTracings.csv has 20 MB."""
MAX_STORED_VIDEO_BYTES = 1 << 30
"""Largest video file."""
_EXPECTED = "expected a folder with Videos/ and FileList.csv"


@dataclass(frozen=True)
class EchoNetRow:
    """One row of FileList.csv; None if the field is blank.

    ``name`` is the FileName without ``.avi``, ``file`` the file in Videos/ (``.avi`` is added to a name
    without ``.avi`` or ``.mp4``).
    """

    name: str
    file: str
    split: str
    fps: float | None
    num_frames: int | None
    ef_percent: float | None = None
    edv_ml: float | None = None
    esv_ml: float | None = None


def read_file_list(root: str) -> list[EchoNetRow]:
    """Read FileList.csv under ``root`` (a path or an fsspec URL), in the file's order.

    Raises:
        InputError: no such folder, an empty one, no Videos/ or FileList.csv, missing columns, no rows, a
            field that is not a number, a FileName that is repeated or is not a plain file name.
    """
    fs, base = _open_folder(root)
    if not fs.isdir(f"{base}/Videos"):
        raise InputError(f"the folder {root} holds no Videos folder; {_EXPECTED}")
    if not fs.exists(f"{base}/FileList.csv"):
        raise InputError(f"the folder {root} holds no FileList.csv; {_EXPECTED}")
    where = f"{root}/FileList.csv"
    reader = csv.DictReader(io.StringIO(_text(_read_list(fs, f"{base}/FileList.csv", where), where), newline=""))
    rows: dict[str, EchoNetRow] = {}
    try:
        _check_columns(reader.fieldnames or (), _REQUIRED, FILE_LIST_COLUMNS, where)
        for fields in reader:
            row = _read_row(fields, f"{where} line {reader.line_num}")
            if row.name in rows:
                raise InputError(f"{where} line {reader.line_num}: FileName {row.name!r} is there twice")
            rows[row.name] = row
    except csv.Error as error:
        raise InputError(f"{where} line {reader.line_num + 1} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"{root}/FileList.csv lists no videos; expected one row per video")
    return list(rows.values())


def select_split(rows: list[EchoNetRow], split: str, root: str) -> list[EchoNetRow]:
    """Rows of one split (upper or lower case), or all of them for ``ALL``.

    Raises:
        InputError: no row has that split.
    """
    chosen = [row for row in rows if split.upper() in ("ALL", row.split.upper())]
    if not chosen:
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.split] = counts.get(row.split, 0) + 1
        found = ", ".join(f"{name!r} ({count} videos)" for name, count in sorted(counts.items()))
        raise InputError(f"{root}/FileList.csv has no video of split {split!r} (source.split); it has {found}, or ALL")
    return chosen


def read_video(root: str, row: EchoNetRow, *, window: Window | None = None) -> DecodedVideo:
    """Read and decode one video (or a window, see `decode_video`), and check its length against header and
    FileList.csv.

    Raises:
        ClipError: the file is missing or unreadable, a link that leads out of the folder, larger than
            `MAX_STORED_VIDEO_BYTES`, or has too few frames.
    """
    fs, base = open_filesystem(root.rstrip("/"))
    try:
        data = read_inside(fs, base, f"Videos/{row.file}", MAX_STORED_VIDEO_BYTES)
    except FileNotFoundError as error:
        raise ClipError(f"{row.file} is in FileList.csv but not in {root}/Videos") from error
    except (OSError, ValueError) as error:
        raise ClipError(f"{row.file} cannot be read from {root}/Videos: {error}") from error
    return decode_video(data, name=row.file, expected_frames=row.num_frames, window=window)


def read_tracings(root: str, names: Collection[str] | None = None) -> dict[str, dict[int, np.ndarray]]:
    """Read VolumeTracings.csv: video name (no ``.avi``) -> frame -> float64 (n, 4) tracing.

    Args:
        root: the folder. One without VolumeTracings.csv (EchoNet-Synthetic has none) gives an empty result.
        names: videos to keep; None keeps all.

    Raises:
        InputError: no such folder, missing columns, or a field that is not a number.
    """
    fs, base = _open_folder(root)
    if not fs.exists(f"{base}/VolumeTracings.csv"):
        return {}
    where = f"{root}/VolumeTracings.csv"
    data = _read_list(fs, f"{base}/VolumeTracings.csv", where)
    types = {column: pa.float64() for column in TRACING_COLUMNS[1:]} | {"FileName": pa.string()}
    try:
        table = pa.csv.read_csv(
            io.BytesIO(data),
            read_options=pa.csv.ReadOptions(use_threads=False),
            convert_options=pa.csv.ConvertOptions(column_types=types),
        )
        _check_columns(table.column_names, TRACING_COLUMNS, TRACING_COLUMNS, where)
    except InputError:
        raise
    except (pa.ArrowException, ValueError) as error:  # pyarrow decodes the names of columns when they are asked for
        raise InputError(f"{where} cannot be read: {_one_line(error)}") from error
    if any(table[column].null_count for column in TRACING_COLUMNS):
        raise InputError(f"{where} has blank fields; every row needs {', '.join(TRACING_COLUMNS)}")
    frames = table["Frame"].to_numpy()
    if odd := frames[~((frames >= 0) & (frames < 1 << 31) & (frames == np.floor(frames)))][:1].tolist():
        raise InputError(f"{where}: Frame is {odd[0]:g}, expected a whole number from 0")
    return _group_tracings(table, names)


def _open_folder(root: str) -> tuple[Any, str]:
    try:
        fs, base = open_filesystem(root.rstrip("/"))
        exists = fs.isdir(base)
        empty = exists and not fs.ls(base, detail=False)
    except Exception as error:  # each store has its own errors: no credentials, no network, no such protocol
        raise InputError(f"the folder {root} cannot be opened: {_one_line(error)}") from error
    if not root or not exists:
        raise InputError(f"there is no folder {root!r} (source.path); {_EXPECTED}")
    if empty:
        raise InputError(f"the folder {root} is empty; {_EXPECTED}")
    return fs, base


def _read_list(fs: Any, path: str, where: str) -> bytes:
    base, _, name = path.rpartition("/")
    try:
        return read_inside(fs, base, name, MAX_LIST_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read: {_one_line(error)}") from error


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text") from error


def _check_columns(found: Sequence[str], needed: Sequence[str], known: Sequence[str], where: str) -> None:
    if missing := [column for column in needed if column not in found]:
        raise InputError(f"{where} lacks the columns {', '.join(missing)}; it needs {', '.join(needed)}")
    if twice := [column for column in known if found.count(column) > 1]:
        raise InputError(f"{where} has the column {twice[0]} twice; which one counts?")


def _read_row(fields: dict[str, str | None], where: str) -> EchoNetRow:
    text = (fields["FileName"] or "").strip()
    if None in fields:
        raise InputError(f"{where} has more fields than the file has columns")
    name = plain_name(re.sub(r"\.avi$", "", text, flags=re.IGNORECASE), where)
    has_suffix = text.lower().endswith((".avi", ".mp4"))
    frames = _number(fields, "NumberOfFrames", where)
    return EchoNetRow(
        name=name,
        file=text if has_suffix else f"{text}.avi",
        split=(fields["Split"] or "").strip(),
        fps=_number(fields, "FPS", where),
        num_frames=None if frames is None else int(frames),
        ef_percent=_number(fields, "EF", where),
        edv_ml=_number(fields, "EDV", where),
        esv_ml=_number(fields, "ESV", where),
    )


def plain_name(name: str, where: str) -> str:
    """Refuse a name that could lead out of Videos/ or has a meaning for a file system. Raises `InputError`."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+= -]{0,199}", name):
        raise InputError(
            f"{where}: FileName {name!r} is not a plain file name; "
            "allowed are letters, digits, '_', '-', '.', '+', '=' and blanks, with no folder"
        )
    return name


def _number(fields: dict[str, str | None], column: str, where: str) -> float | None:
    text = (fields.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: {column} is {text!r}, expected a number") from error
    return value if math.isfinite(value) else None


def _group_tracings(table: pa.Table, names: Collection[str] | None) -> dict[str, dict[int, np.ndarray]]:
    if table.num_rows == 0:
        return {}
    encoded = table["FileName"].combine_chunks().dictionary_encode()
    files = [re.sub(r"\.avi$", "", str(file), flags=re.IGNORECASE) for file in encoded.dictionary.to_pylist()]
    file_of_row = encoded.indices.to_numpy()
    frame_of_row = table["Frame"].to_numpy().astype(np.int64)
    lines = np.stack([table[column].to_numpy() for column in TRACING_COLUMNS[1:5]], axis=1)
    order = np.lexsort((frame_of_row, file_of_row))  # stable: rows of a frame keep the file's order
    file_sorted, frame_sorted = file_of_row[order], frame_of_row[order]
    starts = np.flatnonzero(np.diff(file_sorted, prepend=-1) | np.diff(frame_sorted, prepend=-1))
    wanted = None if names is None else set(names)
    tracings: dict[str, dict[int, np.ndarray]] = {}
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        name = files[file_sorted[start]]
        if wanted is None or name in wanted:
            tracings.setdefault(name, {})[int(frame_sorted[start])] = lines[order[start:stop]]
    return tracings


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
