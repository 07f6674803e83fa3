"""Read folders in EchoNet's layout, on a local disk or an object store.

``Videos/NAME.avi``, ``FileList.csv`` (`echodfkd.sources.video.file_list`) and ``VolumeTracings.csv``
(`echodfkd.sources.video.tracing_list`). Layout: Ouyang et al., "Video-based AI for beat-to-beat assessment of cardiac
function", Nature 2020. EchoNet-Pediatric has one such folder for each view, A4C and PSAX. Frames count from 0.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.notes import Notes
from echodfkd.sources.video.csv_lists import read_list, short
from echodfkd.sources.video.decode import DecodedVideo, Window, decode_video
from echodfkd.sources.video.file_list import EchoNetRow, parse_file_list, stem
from echodfkd.sources.video.tracing_list import Tracings, parse_tracings
from echodfkd.storage.files import read_inside
from echodfkd.storage.object_store import open_filesystem

MAX_STORED_VIDEO_BYTES = 1 << 30
"""Largest video file."""
_EXPECTED = "expected a folder with Videos/ and FileList.csv"
_MAX_CHILDREN = 100
"""Folders inside the user's one that are looked at for a FileList.csv, to name them in an error."""


def read_file_list(root: str, notes: Notes | None = None) -> list[EchoNetRow]:
    """Read FileList.csv under ``root`` (a path or an fsspec URL), in the file's order.

    Raises:
        InputError: no such folder, an empty one, no Videos/ or FileList.csv, or as by `parse_file_list`.
    """
    fs, base = _open_folder(root)
    for name, there in (
        ("Videos folder", fs.isdir(f"{base}/Videos")),
        ("FileList.csv", fs.exists(f"{base}/FileList.csv")),
    ):
        if not there:
            raise InputError(f"the folder {root} holds no {name}; {_EXPECTED}{_hint(fs, base, name.split()[0])}")
    where = f"{root}/FileList.csv"
    return parse_file_list(read_list(fs, base, "FileList.csv", where), where, notes or Notes())


def find_videos(root: str, rows: Sequence[EchoNetRow], notes: Notes) -> list[EchoNetRow]:
    """The rows with the names of their files in Videos/, by one listing.

    A file of another suffix, or whose name differs in case, is taken if there is only one. A video that is absent
    stays in the list, so that each clip is the same on every machine; it is counted, and quarantined when it is drawn.

    Raises:
        InputError: Videos/ leads out of the folder, cannot be listed, or holds none of the videos.
    """
    fs, base = _open_folder(root)
    _check_link(fs, base, root)
    try:
        listed = sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(f"{base}/Videos", detail=False))
    except Exception as error:  # as in `_open_folder`
        raise InputError(f"{root}/Videos cannot be listed: {short(error)}") from error
    names = {name for name in listed if not name.startswith(".")}  # macOS writes ._NAME.avi beside NAME.avi
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        if stem(name) != name:
            alike.setdefault(stem(name).lower(), []).append(name)
    found, absent = [], 0
    for row in rows:
        others = alike.get(row.name.lower(), [])
        if row.file not in names and row.name in names:  # it has a suffix that we do not know
            others = [row.name]
        if row.file not in names and len(others) == 1:
            notes.count("videos whose file has another name than FileList.csv says", f"{row.file!r} is {others[0]!r}")
            row = replace(row, file=others[0])
        elif row.file not in names:
            notes.count("videos in FileList.csv that are not in Videos/; their clips are quarantined", repr(row.file))
            absent += 1
        elif _leads_out(fs, f"{base}/Videos/{row.file}", base):
            notes.count("videos that are links out of the folder; their clips are quarantined", repr(row.file))
            absent += 1
        found.append(row)
    if absent == len(rows):
        raise InputError(f"none of the {absent} videos of {root}/FileList.csv is in {root}/Videos, e.g. {rows[0].file}")
    return found


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


def read_tracings(root: str, listed: Collection[str] | None = None, notes: Notes | None = None) -> Tracings:
    """Read VolumeTracings.csv: video -> frame -> tracing. See `parse_tracings`.

    A folder without that file (EchoNet-Synthetic has none) gives an empty result.

    Raises:
        InputError: no such folder, or as by `parse_tracings`.
    """
    fs, base = _open_folder(root)
    notes = notes or Notes()
    if not fs.exists(f"{base}/VolumeTracings.csv"):
        names = sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(base, detail=False))
        others = [name for name in names if "tracing" in name.lower()]
        unread = f"; {others[0]!r} is not read" if others else ""
        notes.say(f"there is no VolumeTracings.csv, so that no case has truth{unread}")
        return {}
    where = f"{root}/VolumeTracings.csv"
    tracings = parse_tracings(read_list(fs, base, "VolumeTracings.csv", where), where, listed, notes)
    if not tracings:
        notes.say("VolumeTracings.csv holds no tracing of a listed video, so that no case has truth")
    return tracings


def _open_folder(root: str) -> tuple[Any, str]:
    try:
        fs, base = open_filesystem(root.rstrip("/"))
        exists = fs.isdir(base)
        empty = exists and not fs.ls(base, detail=False)
    except Exception as error:  # each store has its own errors: no credentials, no network, no such protocol
        raise InputError(f"the folder {root} cannot be opened: {short(error)}") from error
    if not root or not exists:
        raise InputError(f"there is no folder {root!r} (source.path); {_EXPECTED}")
    if empty:
        raise InputError(f"the folder {root} is empty; {_EXPECTED}")
    return fs, base


def _hint(fs: Any, base: str, missing: str) -> str:
    """A name that is missing only for its case, or folders in this one that are data sets: A4C and PSAX, say."""
    paths = sorted(str(path).rstrip("/") for path in fs.ls(base, detail=False))[:_MAX_CHILDREN]
    alike = [path.rsplit("/", 1)[-1] for path in paths if path.rsplit("/", 1)[-1].lower() == missing.lower()]
    if alike:
        return f", and {alike[0]!r} is another name"
    inside = [path.rsplit("/", 1)[-1] for path in paths if fs.exists(f"{path}/FileList.csv")]
    return f", as its {' and '.join(inside[:3])} is: name that folder (source.path)" if inside else ""


def _check_link(fs: Any, base: str, root: str) -> None:
    """Refuse a Videos/ that is a link to another place: a data set of others could lead to any folder so."""
    if _leads_out(fs, f"{base}/Videos", base):
        raise InputError(
            f"{root}/Videos is a symbolic link that leads out of the folder, and links of a data set are not followed;"
            " let source.path name the folder that holds the videos themselves, with the CSV files beside them"
        )


def _leads_out(fs: Any, path: str, base: str) -> bool:
    """Whether a path of a local disk is a link to a place outside of ``base``."""
    if "file" not in fs.protocol or not os.path.islink(path):
        return False
    inside = os.path.realpath(base)
    return os.path.commonpath([os.path.realpath(path), inside]) != inside
