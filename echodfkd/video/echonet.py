"""Read and write folders in the layout of EchoNet-Dynamic, on a local disk or an object store.

``Videos/NAME.avi``, ``FileList.csv`` (one row per video) and ``VolumeTracings.csv`` (21 rows per traced
frame: see `echodfkd.video.tracing`). Layout: Ouyang et al., "Video-based AI for beat-to-beat assessment
of cardiac function", Nature 2020. Frames count from 0.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv

from echodfkd.errors import ClipError, InputError
from echodfkd.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.video.decode import DecodedVideo, decode_video
from echodfkd.video.encode import encode_avi
from echodfkd.video.tracing import mask_to_tracing

FILE_LIST_COLUMNS = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
_REQUIRED = ("FileName", "FPS", "NumberOfFrames", "Split")
TRACING_COLUMNS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
_EXPECTED = "expected a folder with Videos/ and FileList.csv"


@dataclass(frozen=True)
class EchoNetRow:
    """One row of FileList.csv; None where the field is blank.

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
    reader = csv.DictReader(io.StringIO(_text(fs, f"{base}/FileList.csv", root), newline=""))
    missing = [column for column in _REQUIRED if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{root}/FileList.csv lacks the columns {', '.join(missing)}; it needs {', '.join(_REQUIRED)}")
    rows: dict[str, EchoNetRow] = {}
    for fields in reader:
        row = _read_row(fields, f"{root}/FileList.csv line {reader.line_num}")
        if row.name in rows:
            raise InputError(f"{root}/FileList.csv line {reader.line_num}: FileName {row.name!r} is there twice")
        rows[row.name] = row
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


def read_video(root: str, row: EchoNetRow) -> DecodedVideo:
    """Read and decode one video, and hold its frames against its header and FileList.csv.

    Raises:
        ClipError: the file is missing or unreadable, or has too few frames.
    """
    fs, base = fsspec.core.url_to_fs(root.rstrip("/"))
    try:
        data = fs.cat_file(f"{base}/Videos/{row.file}")
    except FileNotFoundError as error:
        raise ClipError(f"{row.file} is in FileList.csv but not in {root}/Videos") from error
    except OSError as error:
        raise ClipError(f"{row.file} cannot be read from {root}/Videos: {error}") from error
    return decode_video(data, name=row.file, expected_frames=row.num_frames)


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
    types = {column: pa.float64() for column in TRACING_COLUMNS[1:]} | {"FileName": pa.string()}
    try:
        table = pa.csv.read_csv(
            io.BytesIO(fs.cat_file(f"{base}/VolumeTracings.csv")),
            convert_options=pa.csv.ConvertOptions(column_types=types),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{where} cannot be read: {_one_line(error)}") from error
    missing = [column for column in TRACING_COLUMNS if column not in table.column_names]
    if missing:
        raise InputError(f"{where} lacks the columns {', '.join(missing)}; it needs {', '.join(TRACING_COLUMNS)}")
    if any(table[column].null_count for column in TRACING_COLUMNS):
        raise InputError(f"{where} has blank fields; every row needs {', '.join(TRACING_COLUMNS)}")
    return _group_tracings(table, names)


def write_echonet_folder(
    root: str, clips: Iterable[VideoClip], *, split: str | Callable[[int], str] = "TRAIN"
) -> list[EchoNetRow]:
    """Write clips as an EchoNet-Dynamic folder: AVI files, FileList.csv and VolumeTracings.csv.

    Tracings are made of the truth masks (class 1) of the first ED frame and the first ES frame after it
    (or the first ES frame), where the clip has both and they are neither empty nor unannotated.

    Args:
        root: a path or an fsspec URL; made where it does not exist.
        clips: read one by one, so that they may come from a generator. Names are their ``clip_id``.
        split: the Split column of all clips, or of the clip at each position.

    Raises:
        InputError: the folder already holds a FileList.csv or cannot be written, a clip id cannot be a
            file name or comes twice, or there are no clips.
    """
    fs, base = fsspec.core.url_to_fs(root.rstrip("/"))
    if fs.exists(f"{base}/FileList.csv"):
        raise InputError(f"the folder {root} already holds a FileList.csv; write to another one")
    files, tracings = io.StringIO(newline=""), io.StringIO(newline="")
    file_writer, tracing_writer = csv.writer(files), csv.writer(tracings)
    file_writer.writerow(FILE_LIST_COLUMNS)
    tracing_writer.writerow(TRACING_COLUMNS)
    rows: dict[str, EchoNetRow] = {}
    try:
        fs.makedirs(f"{base}/Videos", exist_ok=True)
        for position, clip in enumerate(clips):
            name = plain_name(clip.clip_id, f"clip {position}")
            if name in rows:
                raise InputError(f"clip {position}: the clip id {name!r} comes twice; files need different names")
            known, count = clip.conditions, len(clip.video)
            volumes = (known.ef_percent, known.edv_ml, known.esv_ml)
            where = split if isinstance(split, str) else split(position)
            rows[name] = EchoNetRow(name, f"{name}.avi", where, clip.fps, count, *volumes)
            fs.pipe_file(f"{base}/Videos/{name}.avi", encode_avi(clip.video, clip.fps))
            file_writer.writerow(file_list_fields(clip, name, where))
            tracing_writer.writerows(tracing_fields(name, _traced_masks(clip)))
        if not rows:
            raise InputError(f"no clips to write to {root}")
        fs.pipe_file(f"{base}/VolumeTracings.csv", tracings.getvalue().encode())
        fs.pipe_file(f"{base}/FileList.csv", files.getvalue().encode())  # last: the folder is whole with it
    except OSError as error:
        raise InputError(f"the folder {root} cannot be written: {error}") from error
    return list(rows.values())


def file_list_fields(clip: VideoClip, name: str, split: str) -> list[str]:
    """The row of FileList.csv (`FILE_LIST_COLUMNS`) of a clip that is stored as ``name``.avi; unknown is blank."""
    known, (count, height, width) = clip.conditions, clip.video.shape
    fields = (name, known.ef_percent, known.esv_ml, known.edv_ml, height, width, clip.fps, count, split)
    return ["" if field is None else str(field) for field in fields]


def tracing_fields(name: str, masks: Mapping[int, np.ndarray]) -> list[list[str]]:
    """The rows of VolumeTracings.csv (`TRACING_COLUMNS`) of bool (H, W) masks by frame, none of them empty.

    FileName ends in ``.avi`` here, not in FileList.csv, as in the published files: the authors' loader drops a
    video whose tracings are not under that name.
    """
    return [
        [f"{name}.avi", *(f"{value:.4f}" for value in row), str(frame)]
        for frame, mask in masks.items()
        for row in mask_to_tracing(mask)
    ]


def _open_folder(root: str) -> tuple[Any, str]:
    try:
        fs, base = fsspec.core.url_to_fs(root.rstrip("/"))
        exists = fs.isdir(base)
        empty = exists and not fs.ls(base, detail=False)
    except Exception as error:  # each store has its own errors: no credentials, no network, no such protocol
        raise InputError(f"the folder {root} cannot be opened: {_one_line(error)}") from error
    if not root or not exists:
        raise InputError(f"there is no folder {root!r} (source.path); {_EXPECTED}")
    if empty:
        raise InputError(f"the folder {root} is empty; {_EXPECTED}")
    return fs, base


def _text(fs: Any, path: str, root: str) -> str:
    try:
        return str(fs.cat_file(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{root}/FileList.csv is not UTF-8 text") from error


def _read_row(fields: dict[str, str | None], where: str) -> EchoNetRow:
    text = (fields["FileName"] or "").strip()
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
    """Refuse a name that could lead out of Videos/ or means something to a file system."""
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


def _traced_masks(clip: VideoClip) -> dict[int, np.ndarray]:
    if clip.truth_labels is None or not clip.ed_frames or not clip.es_frames:
        return {}
    ed_frame = clip.ed_frames[0]
    es_frame = next((frame for frame in clip.es_frames if frame > ed_frame), clip.es_frames[0])
    labels = {frame: clip.truth_labels[frame] for frame in (ed_frame, es_frame)}
    if any(not (known == 1).any() or (known == TRUTH_UNKNOWN).any() for known in labels.values()):
        return {}
    return {frame: known == 1 for frame, known in labels.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
