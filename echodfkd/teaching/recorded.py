"""A teacher of masks made earlier, found by a clip's id or by the name of the video that it was cut from.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import pyarrow.parquet as pq

from echodfkd.core.errors import ClipError, InputError, RunError, one_line
from echodfkd.core.mask_codes import decode, quantise
from echodfkd.core.records import VideoClip
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.sources.video.windows import resize_video, sample_video
from echodfkd.storage.files import read_inside
from echodfkd.storage.object_store import open_filesystem
from echodfkd.storage.parquet import PARQUET_ERRORS, open_parquet
from echodfkd.teaching.mask_files import (
    MAX_BYTES,
    check_levels,
    check_mask_file,
    check_shape,
    decode_mask,
    decode_npz,
    read_mask_rows,
)

NPZ_SUFFIX = ".seg.npz"
TRIED_MASKS = 3
"""Masks that every process reads when it opens a folder."""


class Placement(Protocol):
    """Places clips in the videos that they were cut from. Methods raise `ClipError` for a clip of no video."""

    def clip(self, clip: ClipKey) -> VideoClip:
        """The clip itself, with its truth, if it is of a video or not."""
        ...

    def video_name(self, clip: ClipKey) -> str:
        """Name of the clip's video, without a suffix."""
        ...

    def video_shape(self, clip: ClipKey) -> tuple[int, int, int]:
        """(T, H, W) of that video."""
        ...

    def frames(self, clip: ClipKey) -> tuple[np.ndarray, int]:
        """Positions (float, in frames) of the clip in its video, and its ``window_start``."""
        ...


class RecordedMasks(Teacher):
    """Reads masks from a folder (a path or an fsspec URL).

    The folder holds Parquet files of `MASK_SCHEMA`, whose rows are masks of clips by id, frame by frame; or one
    ``NAME.seg.npz`` per video, of the whole video at its own frame rate, which is cut as the clip was. Masks of
    another size than the clip are resized. A clip without a usable mask is at fault, not the run.

    Args:
        path: the folder.
        source_classes: names of the masks' channels in the files, in order.
        channels: which of them are kept.
        class_names: our names of these, background first.
        place: places clips in their videos, for ``.seg.npz``; None if clips are not cut from videos.
        option: that names the folder, for errors.

    Raises:
        InputError: no such folder, neither or both kinds of files in it, ``.seg.npz`` for clips of no video, or none of
            `TRIED_MASKS` masks in it can be used, e.g. because they are classes and no levels.
    """

    def __init__(
        self,
        path: str,
        *,
        source_classes: tuple[str, ...],
        channels: tuple[int, ...],
        class_names: tuple[str, ...],
        place: Placement | None,
        option: str = "teacher.weights",
    ) -> None:
        self.class_names = class_names
        self._path, self._source_classes, self._channels = path.rstrip("/"), source_classes, list(channels)
        self._place = place
        try:
            self._fs, self._base = open_filesystem(self._path)
            found = self._fs.find(self._base, detail=True)
        except Exception as error:  # each store has its own errors: no protocol, no credentials, no network
            raise InputError(f"{option}: {path} cannot be listed: {one_line(error)}") from error
        base = self._base.rstrip("/")
        sizes = {
            str(name)[len(base) + 1 :]: int(entry.get("size") or 0)
            for name, entry in found.items()
            if not str(name).rsplit("/", 1)[-1].startswith(".")
        }
        self._npz = {name for name in sizes if name.endswith(NPZ_SUFFIX)}
        tables = sorted(name for name in sizes if name.endswith(".parquet"))
        if bool(self._npz) == bool(tables):
            raise InputError(
                f"{option}: {path} holds {len(tables)} .parquet and {len(self._npz)} {NPZ_SUFFIX} files;"
                " expected masks of one kind"
            )
        if self._npz and len(source_classes) != 1:
            raise InputError(f"teacher.outputs: {NPZ_SUFFIX} files hold one class, got {', '.join(source_classes)}")
        if self._npz and place is None:
            raise InputError(
                f"{option}: {path} holds {NPZ_SUFFIX} files, which belong to videos of a recorded source, and no source"
                " here is one (source.kind, evaluation.source.kind)"
            )
        facts = [f"{source_classes} {channels} {class_names}"]
        listing = "\n".join(facts + [f"{name} {sizes[name]}" for name in sorted(self._npz or tables)])
        self.teacher_id = f"recorded-{hashlib.sha256(listing.encode('utf-8', 'replace')).hexdigest()[:8]}"
        self._unreadable: dict[str, str] = {}
        self._rows = dict(self._index(tables))
        self._try_some(option)

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`. Raises `RunError` without ``clips``."""
        if not clips:
            raise RunError(f"the teacher {self.teacher_id} finds masks by clip id, and was shown only pixels")
        N, T, H, W = video_NTHW.shape
        prob = np.zeros((N, T, len(self._channels), H, W), np.float32)
        faults = {}
        for row, clip in enumerate(clips):
            try:
                prob[row] = self._mask(clip, (T, H, W)).astype(np.float32) / np.float32(255)
            except ClipError as error:
                faults[row] = str(error)
        return self.output_of(prob, video_NTHW, classes=classes, code=code, faults=faults)

    def _mask(self, clip: ClipKey, shape: tuple[int, int, int]) -> np.ndarray:
        """uint8 (T, C, H, W) in our classes. Raises `ClipError`."""
        H, W = shape[1:]
        prob_TCHW = self._of_video(clip)[:, None] if self._npz else self._of_clip(clip, shape)[:, self._channels]
        if prob_TCHW.shape[2:] == (H, W):
            return prob_TCHW
        assert H == W, "clips are square"
        return np.stack([resize_video(prob_THW, H) for prob_THW in prob_TCHW.swapaxes(0, 1)], axis=1)

    def _try_some(self, option: str) -> None:
        """Refuse a folder if no mask that is tried can be used: a single one costs its own clips, and not the run."""
        names = sorted(self._npz or self._rows)
        names = names[:: -(-len(names) // TRIED_MASKS) or 1]
        faults = []
        for name in names:
            try:
                if self._npz:
                    self._read_npz(name)
                else:
                    self._read_row(name)
            except ClipError as error:
                faults.append(str(error))
        if names and len(faults) == len(names):
            raise InputError(
                f"{option}: {self._path} holds no usable mask among the {len(names)} that were tried: {faults[0]}"
            )

    def _of_clip(self, clip: ClipKey, shape: tuple[int, int, int]) -> np.ndarray:
        if clip.clip_id not in self._rows:
            lost = "".join(
                f"; it also holds {name}, which cannot be read: {why}" for name, why in self._unreadable.items()
            )
            raise ClipError(f"{self._path} holds no mask of {clip.clip_id}{lost}")
        levels = self._read_row(clip.clip_id)
        T, _, H, W = levels.shape
        check_shape((T, H, W), shape, f"the stored mask of {clip.clip_id}")
        return levels if levels.dtype == np.uint8 else quantise(decode(levels))

    def _read_row(self, clip_id: str) -> np.ndarray:
        """Codes (T, C, H, W) of a clip. Raises `ClipError`."""
        name, group, place = self._rows[clip_id]
        try:
            with self._open(name) as file:
                row = read_mask_rows(file, group)[place]
        except ClipError:
            raise
        except PARQUET_ERRORS as error:
            raise ClipError(f"{name} in {self._path} cannot be read: {one_line(error)}") from error
        mask = decode_mask(row, f"{name}: clip {clip_id}")
        if mask.clip_id != clip_id or mask.classes != self._source_classes:
            raise ClipError(
                f"{name}: the mask of {clip_id} is that of {mask.clip_id} with the classes"
                f" {', '.join(mask.classes)}, expected {', '.join(self._source_classes)} (teacher.outputs)"
            )
        check_levels(mask.levels, f"the stored mask of {clip_id}")
        return mask.levels

    def _of_video(self, clip: ClipKey) -> np.ndarray:
        assert self._place is not None
        name = f"{self._place.video_name(clip)}{NPZ_SUFFIX}"
        if name not in self._npz:
            raise ClipError(f"{self._path} holds no {name}")
        mask_THW = self._read_npz(name)
        check_shape(mask_THW.shape, self._place.video_shape(clip), name)
        positions, start = self._place.frames(clip)
        if start != clip.window_start:
            raise ClipError(
                f"{clip.clip_id} begins at frame {clip.window_start} of its video, but at {start} of the one that this"
                " process reads: there are two versions of it"
            )
        return sample_video(mask_THW, positions)

    def _read_npz(self, name: str) -> np.ndarray:
        """Codes (T, H, W) of a video. Raises `ClipError`."""
        try:
            data = read_inside(self._fs, self._base, name, MAX_BYTES)
        except (OSError, ValueError) as error:
            raise ClipError(f"{name} cannot be read from {self._path}: {one_line(error)}") from error
        mask_THW = decode_npz(data, name)
        check_levels(mask_THW, name)
        return mask_THW

    def _index(self, tables: Sequence[str]) -> Iterator[tuple[str, tuple[str, int, int]]]:
        """The file, row group and row of each clip. An unreadable file loses only its own clips."""
        for name in tables:
            try:
                with self._open(name) as file:
                    for group in range(file.metadata.num_row_groups):
                        rows = read_mask_rows(file, group, ["clip_id"])
                        yield from ((str(row["clip_id"]), (name, group, place)) for place, row in enumerate(rows))
            except PARQUET_ERRORS as error:
                self._unreadable[name] = one_line(error)

    @contextmanager
    def _open(self, name: str) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file of `MASK_SCHEMA` in the folder. Raises `ClipError` and one of `PARQUET_ERRORS`."""
        path = f"{self._base}/{name}"
        if "file" in self._fs.protocol:
            real, root = os.path.realpath(path), os.path.realpath(self._base)
            if os.path.commonpath([real, root]) != root or not os.path.isfile(real):
                raise ClipError(f"{name} is no plain file inside of the folder")
        with self._fs.open(path, "rb") as source:
            file = open_parquet(source)
            check_mask_file(file, name)
            yield file
