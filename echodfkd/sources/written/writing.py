"""Write clips as an EchoNet-Dynamic folder or as Parquet shards, shard by shard, each exactly once.

The unit of work is the *shard*: ``shard_clips`` consecutive indices. The files of a shard are written first, then its
commit record ``shards/shard-000123.json``, which is created once and whole. Files without a record are never read, and
the next attempt at the shard overwrites them with the same bytes, because a clip depends only on its index. The lists
are made from the records at the end, in order::

    OUT/synthesis.json            the request; another one is refused
    OUT/Videos/NAME.avi           echonet: one file per clip
    OUT/clips/shard-000123.parquet  parquet: one file per shard (`shards.SHARD_SCHEMA`)
    OUT/shards/shard-000123.json  commit records
    OUT/FileList.csv, OUT/VolumeTracings.csv      echonet: read by EchoNet-Dynamic's loader
    OUT/clips.parquet             all about every clip but its pixels (`schemas.CASE_SCHEMA`)
    OUT/preview.png, OUT/preview.mp4
    OUT/manifest.json             written last: the folder is whole
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError, InputError, RunError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.video.encode import encode_avi
from echodfkd.sources.video.tracing import mask_to_tracing
from echodfkd.sources.video.windows import permuted_index
from echodfkd.sources.written.shards import encode_shard
from echodfkd.storage.files import RunStorage, describe
from echodfkd.storage.schemas import case_row

Record = dict[str, Any]
"""A commit record: ``shard``, ``first_index``, ``indices`` (how many), ``files`` (name -> size, sha256), ``clips``
(one row of `schemas.CASE_SCHEMA` each), ``file_list`` and ``tracings`` (fields of the two CSV files, echonet) and
``quarantined`` (index, clip_id, reason)."""


@dataclass(frozen=True)
class Shard:
    """The indices ``first_index`` .. ``first_index + count - 1``, which are committed together.

    Example: ``Shard(number=3, first_index=48, count=16)``.
    """

    number: int
    first_index: int
    count: int

    @property
    def name(self) -> str:
        """Name of its files, without folder and suffix."""
        return f"shard-{self.number:06d}"

    @property
    def record(self) -> str:
        """Name of its commit record."""
        return f"shards/{self.name}.json"

    @property
    def indices(self) -> range:
        """Indices of its clips."""
        return range(self.first_index, self.first_index + self.count)


def plan_shards(*, clips: int, shard_clips: int, first_index: int) -> list[Shard]:
    """Cut ``clips`` indices from ``first_index`` into shards; the last one may be smaller."""
    starts = range(0, clips, shard_clips)
    return [Shard(n, first_index + start, min(shard_clips, clips - start)) for n, start in enumerate(starts)]


class Splits:
    """The Split of each clip, by its position in the order; shares hold to within one clip.

    Positions are permuted first, so that no pattern in the indices (a mixture's period, a table of patients)
    falls into one split.

    Args:
        clips: their number.
        seed: of the permutation.
        shares: relative share of each split, at least one.
    """

    def __init__(self, *, clips: int, seed: int, shares: Mapping[str, float]) -> None:
        self.clips, self.seed = clips, seed
        self.names = list(shares)
        ends = np.cumsum(list(shares.values()), dtype=np.float64)
        self.ends = np.rint(ends / ends[-1] * clips).astype(np.int64)

    def __getitem__(self, position: int) -> str:
        place = permuted_index(self.seed, 0, position, self.clips)
        return self.names[int(np.searchsorted(self.ends, place, side="right"))]


def traced_masks(clip: VideoClip) -> dict[int, np.ndarray]:
    """The truth masks of a clip for VolumeTracings.csv: end-diastole first, then end-systole.

    They are those of the first ED frame and of the first ES frame after it (or the first ES frame). A clip without an
    ED frame uses its frame of largest area, one without an ES frame that of smallest area. Frames
    whose mask is empty or unannotated do not count; with fewer than two others there is no tracing.

    Returns:
        Two bool (H, W) masks by frame number, or an empty dictionary.
    """
    if clip.truth_labels is None:
        return {}
    usable = ~(clip.truth_labels == TRUTH_UNKNOWN).any((1, 2)) & (clip.truth_labels == 1).any((1, 2))
    frames = [int(frame) for frame in np.flatnonzero(usable)]
    if len(frames) < 2:
        return {}
    area = {frame: int((clip.truth_labels[frame] == 1).sum()) for frame in frames}
    known_ed = [frame for frame in clip.ed_frames or () if frame in area]
    ed_frame = known_ed[0] if known_ed else max(frames, key=lambda frame: area[frame])
    known_es = [frame for frame in clip.es_frames or () if frame in area and frame != ed_frame]
    after = [frame for frame in known_es if frame > ed_frame] or known_es
    others = [frame for frame in frames if frame != ed_frame]
    es_frame = after[0] if after else min(others, key=lambda frame: area[frame])
    return {frame: clip.truth_labels[frame] == 1 for frame in (ed_frame, es_frame)}


def write_shard(storage: RunStorage, source: ClipSource, shard: Shard, *, layout: str, splits: Sequence[str]) -> Record:
    """Make a shard's clips, write its files, and commit it. Returns the record.

    Args:
        storage: the folder.
        source: of the clips.
        shard: which clips.
        layout: echonet or parquet.
        splits: Split of each of the shard's clips.

    Raises:
        InputError: a clip id cannot be a file name, or the folder cannot be written.
        RunError: the shard is committed already, with other content.
    """
    clips, chosen, quarantined = [], [], []
    for index, split in zip(shard.indices, splits, strict=True):
        try:
            clips.append(source.clip(index))
            chosen.append(split)
        except ClipError as error:
            quarantined.append({"index": index, "clip_id": getattr(error, "clip_id", ""), "reason": str(error)})
    files = _echonet_files(clips) if layout == "echonet" else _parquet_files(shard, clips, chosen)
    record: Record = {
        "shard": shard.number,
        "first_index": shard.first_index,
        "indices": shard.count,
        "files": {name: describe(data) for name, data in files.items()},
        "clips": [case_row(clip) for clip in clips],
        "quarantined": quarantined,
    }
    if layout == "echonet":
        named = [(clip, file_name(clip.clip_id), split) for clip, split in zip(clips, chosen, strict=True)]
        record["file_list"] = [file_list_fields(clip, name, split) for clip, name, split in named]
        record["tracings"] = [row for clip, name, _ in named for row in tracing_fields(name, traced_masks(clip))]
    try:
        for name, data in files.items():
            storage.write(name, data)
        text = json.dumps(record, sort_keys=True).encode()
        if not storage.create_once(shard.record, text) and storage.read(shard.record) != text:
            raise RunError(
                f"{storage.path(shard.record)} was committed with other clips than those made now; the source or the"
                " software has changed since, so write to another folder (synthesize.out)"
            )
    except OSError as error:
        raise InputError(f"the folder {storage.root} cannot be written (synthesize.out): {error}") from error
    return record


def file_name(clip_id: str) -> str:
    """The name of a clip's file without ``.avi``: its id, if that is a valid name.

    A name holds no dot: EchoNet-Dynamic's loader would read it as the start of a suffix, and skip the video.

    Raises:
        InputError: the id holds anything but letters, digits, '_', '-', '+' and '='.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_+=-]{0,199}", clip_id):
        raise InputError(
            f"clip id {clip_id!r} cannot be the name of a file: allowed are up to 200 letters, digits, '_', '-', '+'"
            " and '='; synthesize.format=parquet takes every id"
        )
    return clip_id


def file_list_fields(clip: VideoClip, name: str, split: str) -> list[str]:
    """The row of FileList.csv (`file_list.FILE_LIST_COLUMNS`) of a clip stored as ``name``.avi; unknown is blank.

    No spreadsheet takes a cell for a formula: names begin with a letter, a digit or '_', other cells are numbers.
    """
    known, (count, height, width) = clip.conditions, clip.video.shape
    fields = (name, known.ef_percent, known.esv_ml, known.edv_ml, height, width, clip.fps, count, split)
    return ["" if field is None else str(field) for field in fields]


def tracing_fields(name: str, masks: Mapping[int, np.ndarray]) -> list[list[str]]:
    """The rows of VolumeTracings.csv (`tracing_list.TRACING_COLUMNS`) for non-empty bool (H, W) masks by frame.

    FileName ends in ``.avi`` here but not in FileList.csv, as in the published files: the authors' loader drops a
    video whose tracings have another name.
    """
    return [
        [f"{name}.avi", *(f"{value:.4f}" for value in row), str(frame)]
        for frame, mask in masks.items()
        for row in mask_to_tracing(mask)
    ]


def _echonet_files(clips: Sequence[VideoClip]) -> dict[str, bytes]:
    return {f"Videos/{file_name(clip.clip_id)}.avi": encode_avi(clip.video, clip.fps) for clip in clips}


def _parquet_files(shard: Shard, clips: Sequence[VideoClip], splits: Sequence[str]) -> dict[str, bytes]:
    return {f"clips/{shard.name}.parquet": encode_shard(clips, splits)} if clips else {}
