"""Write folders in the layout of EchoNet-Dynamic (`echodfkd.sources.video.echonet` reads them).

No cell of the CSV files can be taken for a formula by a spreadsheet: names begin with a letter, a digit or '_', all
other cells are numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from echodfkd.core.errors import InputError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.sources.video.echonet import FILE_LIST_COLUMNS, TRACING_COLUMNS, EchoNetRow, plain_name
from echodfkd.sources.video.encode import encode_avi
from echodfkd.sources.video.tracing import mask_to_tracing
from echodfkd.storage.object_store import open_filesystem


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
    fs, base = open_filesystem(root.rstrip("/"))
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


def _traced_masks(clip: VideoClip) -> dict[int, np.ndarray]:
    if clip.truth_labels is None or not clip.ed_frames or not clip.es_frames:
        return {}
    ed_frame = clip.ed_frames[0]
    es_frame = next((frame for frame in clip.es_frames if frame > ed_frame), clip.es_frames[0])
    labels = {frame: clip.truth_labels[frame] for frame in (ed_frame, es_frame)}
    if any(not (known == 1).any() or (known == TRUTH_UNKNOWN).any() for known in labels.values()):
        return {}
    return {frame: known == 1 for frame, known in labels.items()}
