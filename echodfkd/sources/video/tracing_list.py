"""Read VolumeTracings.csv in two layouts, and keep several tracings of one frame apart.

EchoNet-Dynamic: a row per chord (X1, Y1, X2, Y2), the long axis first, 21 rows for a traced frame. EchoNet-Pediatric: a
row per point of the contour (X, Y), in order around it; a phase without a tracing has a row with the words "No
Systolic" or "No Diastolic" in place of a frame. `echodfkd.sources.video.tracing` makes masks of both.

A frame may be traced several times: by several readers, or in a file that was appended to itself. Joined to one
polygon they would be no ventricle. They are told apart by their long axes, by rows of another frame between them, or
because one repeats the other; the first one in the file counts, and frames with further ones are counted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from echodfkd.core.errors import InputError
from echodfkd.sources.notes import Notes
from echodfkd.sources.video.csv_lists import first_line, known_columns, short
from echodfkd.sources.video.file_list import stem

TRACING_COLUMNS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
"""EchoNet-Dynamic's columns, in its order."""
CONTOUR_COLUMNS = ("FileName", "X", "Y", "Frame")
"""EchoNet-Pediatric's."""

Tracings = dict[str, dict[int, np.ndarray]]
"""Video -> frame -> float64 (n, 4) chords or (n, 2) points."""

_UNTRACED = ("no systolic", "no diastolic")
_LEAST_ROWS = 3
"""Rows of the shortest tracing: a long axis and two chords, or three points."""
_ALONG = 0.7
"""Least cosine with a tracing's first row of a row that may be another long axis: chords stand across it."""
_LARGEST_FRACTION = 1.5
"""If no coordinate of the file is above it, they are fractions of the frame's sides, and no pixels."""


def parse_tracings(text: str, where: str, listed: Collection[str] | None, notes: Notes) -> Tracings:
    """The tracings of a VolumeTracings.csv.

    Args:
        text: of the file.
        where: the file, for errors.
        listed: videos of FileList.csv. Tracings are theirs if the name is equal without folder and suffix, or if it
            is equal but for its case and no second video is; others are left out and counted. None keeps all names.
        notes: takes counts.

    Raises:
        InputError: missing columns, a field that is not a number, coordinates that are no pixels, or no outline at all.
    """
    rows = _read_rows(text, where, notes)
    if not len(rows.values):
        return {}
    if np.abs(rows.values).max() <= _LARGEST_FRACTION:
        raise InputError(
            f"{where}: all coordinates lie in {rows.values.min():g} .. {rows.values.max():g}, as fractions do;"
            " expected pixels of the video's frames"
        )
    tracings = _first_tracings(rows, _owner(rows.files, listed, notes), notes)
    longest = max((len(traced) for frames in tracings.values() for traced in frames.values()), default=_LEAST_ROWS)
    if longest < _LEAST_ROWS:
        raise InputError(
            f"{where}: no traced frame has more than {longest} rows, an outline needs {_LEAST_ROWS} or more"
        )
    return tracings


@dataclass(frozen=True)
class _Rows:
    """``values`` float64 (N, 4) or (N, 2); ``file`` int64 (N,) into ``files``; ``frame`` int64 (N,)."""

    files: list[str]
    file: np.ndarray
    frame: np.ndarray
    values: np.ndarray

    @property
    def have_axes(self) -> bool:
        return self.values.shape[1] == 4


def _read_rows(text: str, where: str, notes: Notes) -> _Rows:
    head, rest = first_line(text)
    names = next(csv.reader(io.StringIO(head)), [])
    upper = {name.strip().upper() for name in names}
    contours = "X" in upper and "X1" not in upper
    columns = CONTOUR_COLUMNS if contours else TRACING_COLUMNS
    places = known_columns(names, dict.fromkeys(columns, ()), columns, where, notes)
    own = {place: column for column, place in places.items()}
    header = ",".join(own.get(place, f"unread {place}") for place in range(len(names)))
    types = dict.fromkeys(columns, pa.float64()) | {"FileName": pa.string(), "Frame": pa.string()}
    try:
        table = pa.csv.read_csv(
            io.BytesIO(f"{header}\n{rest}".encode()),
            read_options=pa.csv.ReadOptions(use_threads=False),
            convert_options=pa.csv.ConvertOptions(column_types=types, include_columns=list(columns)),
        )
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{where} cannot be read: {short(error)}") from error
    encoded = table["FileName"].combine_chunks().dictionary_encode()
    frames = table["Frame"].combine_chunks().dictionary_encode()
    values = np.stack([table[column].to_numpy() for column in columns[1:-1]], axis=1)
    file, frame = encoded.indices.to_numpy(), frames.indices.to_numpy()
    files = [str(name).strip() for name in encoded.dictionary.to_pylist()]
    numbers, untraced = _frame_numbers([str(name).strip() for name in frames.dictionary.to_pylist()], where)
    named = np.array([bool(name) for name in files], bool)[file]
    keep = ~untraced[frame] & (named | ~np.isnan(values).all(1))  # spreadsheets write lines of commas
    for name in dict.fromkeys(file[untraced[frame]].tolist()):
        notes.count("videos of which VolumeTracings.csv says that a phase is not traced", repr(files[name]))
    file, frame, values = file[keep], frame[keep], values[keep]
    if np.isnan(values).any() or np.isnan(numbers[frame]).any() or not all(files[name] for name in np.unique(file)):
        blank = np.flatnonzero(np.isnan(values).any(1) | np.isnan(numbers[frame]) | ~named[keep])
        raise InputError(
            f"{where} has blank fields in {len(blank)} rows (first: of {files[file[blank[0]]]!r}); every row needs"
            f" {', '.join(columns)}"
        )
    return _Rows(files, file, numbers[frame].astype(np.int64), values)


def _frame_numbers(texts: list[str], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of frames (not a number if blank), and whether the text says that a phase is not traced."""
    untraced = np.array([text.lower() in _UNTRACED for text in texts], bool)
    numbers = np.full(len(texts), np.nan)
    for place, text in enumerate(texts):
        if not text or untraced[place]:
            continue
        try:
            number = float(text)
        except ValueError as error:
            raise InputError(f"{where} cannot be read: Frame is {text[:40]!r}, expected a number") from error
        if not (0 <= number < 1 << 31 and number == int(number)):
            raise InputError(f"{where}: Frame is {number:g}, expected a whole number from 0")
        numbers[place] = number
    return numbers, untraced


def _owner(files: Iterable[str], listed: Collection[str] | None, notes: Notes) -> Callable[[str], str | None]:
    """The listed video of a file's name; None if there is none."""
    if listed is None:
        return _bare
    folded: dict[str, list[str]] = {}
    for name in listed:
        folded.setdefault(name.lower(), []).append(name)
    owners: dict[str, str | None] = {}
    for file in files:
        name = _bare(file)
        alike = folded.get(name.lower(), [])
        owners[file] = name if name in listed else alike[0] if len(alike) == 1 else None
        if file and owners[file] is None:
            notes.count("names in VolumeTracings.csv of which no video is in FileList.csv", repr(file))
        elif file and owners[file] != name:
            notes.count("names in VolumeTracings.csv matched to a video in spite of their case", repr(file))
    return lambda file: owners[file]


def _bare(file: str) -> str:
    return stem(file.replace("\\", "/").rsplit("/", 1)[-1])


def _first_tracings(rows: _Rows, owner: Callable[[str], str | None], notes: Notes) -> Tracings:
    """The first tracing of every frame."""
    names = [owner(file) for file in rows.files]
    known = {name: number for number, name in enumerate(dict.fromkeys(name for name in names if name is not None))}
    video = np.array([-1 if name is None else known[name] for name in names], np.int64)[rows.file]
    chosen = np.flatnonzero(video >= 0)
    if not len(chosen):
        return {}
    order = chosen[np.lexsort((rows.frame[chosen], video[chosen]))]  # stable: rows of a frame keep the file's order
    video, frame, values = video[order], rows.frame[order], rows.values[order]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(video) != 0) | (np.diff(frame) != 0)
    starts = np.flatnonzero(first)
    stops = np.append(starts[1:], len(order))
    axis = _looks_like_axis(values, starts, stops) if rows.have_axes else np.zeros(len(order), bool)
    apart = np.zeros(len(order), bool)
    apart[1:] = np.diff(order) != 1  # rows of another frame stand between
    again = (values == values[np.repeat(starts, stops - starts)]).all(1)
    odd = np.add.reduceat((axis | apart | again) & ~first, starts)
    usual = int(np.bincount(stops - starts).argmax())
    labels, tracings = list(known), Tracings()
    for place, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        name, number, end = labels[video[start]], int(frame[start]), stop
        if odd[place]:
            end = start + _first_end(values[start:stop], axis[start:stop], apart[start:stop])
        if end < stop:
            notes.count("traced frames with several tracings, of which the first counts", f"{name!r} frame {number}")
        elif rows.have_axes and stop - start != usual:
            fact = f"tracings with another number of rows than most ({usual})"
            notes.count(fact, f"{name!r} frame {number}, {stop - start} rows")
        if end - start < _LEAST_ROWS:
            fact = f"tracings of fewer than {_LEAST_ROWS} rows; their cases are quarantined"
            notes.count(fact, f"{name!r} frame {number}")
        if 2 * axis[start:end].sum() > end - start:
            fact = "tracings whose first row is no long axis across the others, and is left out all the same"
            notes.count(fact, f"{name!r} frame {number}")
        tracings.setdefault(name, {})[number] = values[start:end]
    return tracings


def _looks_like_axis(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Whether a row lies along its frame's first row and has at least half of its length, bool (N,)."""
    across = values[:, 2:] - values[:, :2]
    length = np.hypot(*across.T)
    base = np.repeat(starts, stops - starts)
    with np.errstate(over="ignore", invalid="ignore"):
        along = np.abs((across * across[base]).sum(1)) > _ALONG * length * length[base]
    return along & (length >= length[base] / 2)


def _first_end(values: np.ndarray, axis: np.ndarray, apart: np.ndarray) -> int:
    """Rows of the first tracing of a frame."""
    count = len(values)
    for begins in (axis | apart, axis, apart):
        cuts = [0, *(np.flatnonzero(begins[1:]) + 1).tolist(), count]
        if len(cuts) > 2 and min(np.diff(cuts)) >= _LEAST_ROWS:
            return cuts[1]
    repeats = (rows for rows in range(_LEAST_ROWS, count // 2 + 1) if count % rows == 0)
    return next((rows for rows in repeats if np.array_equal(values[:-rows], values[rows:])), count)
