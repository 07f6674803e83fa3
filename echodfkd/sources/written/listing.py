"""Write the FileList.csv of a folder of videos: names, sizes, rates and numbers of frames as their files have them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from echodfkd.core.counter import Counter
from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.folder import split_of
from echodfkd.sources.notes import Notes
from echodfkd.sources.video.cine_files import CineFile, find_cines, read_cine_file
from echodfkd.sources.video.file_list import FILE_LIST_COLUMNS, plain_name, stem
from echodfkd.storage.files import RunStorage


def write_file_list(root: str, *, split: str = "", say: Callable[[str], None]) -> dict[str, object]:
    """Read every video in ``root``/Videos and write ``root``/FileList.csv.

    Args:
        root: a path or an fsspec URL.
        split: that of all videos; "" draws TRAIN, VAL or TEST by a hash of the name (`folder.split_of`).
        say: takes lines of progress, and of videos that are left out.

    Returns:
        ``{"file_list", "videos", "left_out", "splits"}``.

    Raises:
        InputError: there is a FileList.csv already, no video can be used, or the folder cannot be read or written.
    """
    storage, notes = RunStorage(root.rstrip("/")), Notes()
    if storage.exists("FileList.csv"):
        raise InputError(
            f"{root} has a FileList.csv already, which may hold more than this job can know; move it first"
        )
    if split and (not re.fullmatch(r"[A-Za-z0-9_]{1,40}", split) or split.upper() == "ALL"):
        raise InputError(f"--split: got {split!r}, expected letters, digits and '_', and not ALL, e.g. TRAIN")
    files, others = find_cines(f"{storage.root}/Videos", option="ROOT")
    rows: dict[str, list[str]] = {}
    with Counter("files", len(files), say) as counter:
        for number, file in enumerate(files, 1):
            row = _row(file, split, rows, notes)
            if row is not None:
                rows[row[0]] = row
            counter.show(number)
    for note in notes.sentences:
        say(f"note: {note}")
    if not rows:
        raise InputError(f"{root}/Videos holds no video that can be listed, but {len(files) + others} other files")
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([FILE_LIST_COLUMNS, *rows.values()])
    try:
        made = storage.create_once("FileList.csv", text.getvalue().encode())
    except OSError as error:
        raise InputError(f"{root}/FileList.csv cannot be written: {error}") from error
    if not made:
        raise InputError(f"{root}: another process has just made FileList.csv")
    counts: dict[str, int] = {}
    for row in rows.values():
        counts[row[-1]] = counts.get(row[-1], 0) + 1
    left_out = len(files) + others - len(rows)
    return {"file_list": f"{storage.root}/FileList.csv", "videos": len(rows), "left_out": left_out, "splits": counts}


def _row(file: CineFile, split: str, taken: dict[str, list[str]], notes: Notes) -> list[str] | None:
    """One video's fields in the order of `FILE_LIST_COLUMNS`; None, and counted, if it cannot be listed."""
    if file.frames or file.may_name_a_patient or file.is_volume:
        notes.count("files left out, as no list can name them: only source.kind=folder reads them", "no AVI or MP4")
        return None
    name = stem(file.path)
    try:
        plain_name(name, file.path)
        if name in taken or "/" in file.path:
            raise InputError(f"{file.path} lies in a folder of its own, or another video has its name")
        cine = read_cine_file(file, name=file.path)
    except (ClipError, InputError) as error:
        notes.count("videos left out, which cannot be listed or read", str(error))
        return None
    for warning in cine.warnings:
        notes.count("warnings on videos that are listed", warning)
    frames, height, width = (str(size) for size in cine.video.shape)
    rate = f"{cine.fps:g}" if cine.fps else ""
    listed = name if file.path.lower().endswith(".avi") else file.path
    return [listed, "", "", "", height, width, rate, frames, split or split_of(name)]
