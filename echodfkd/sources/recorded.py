"""Recorded videos in EchoNet-Dynamic's layout as a source of clips and of evaluation cases.

Legend: T frames, H rows, W columns.

Epochs are arithmetic on the clip index: of n videos, index i is video ``i % n`` of the permutation of epoch
``i // n``, so that n indices in a row from a multiple of n visit each video once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import TRUTH_UNKNOWN, Conditions, VideoClip
from echodfkd.sources.case_grid import Grid, case_grid, stretch_start
from echodfkd.sources.video.echonet import EchoNetRow, read_file_list, read_tracings, read_video, select_split
from echodfkd.sources.video.tracing import tracing_to_mask
from echodfkd.sources.video.windows import (
    permuted_index,
    resample_positions,
    resize_labels,
    resize_video,
    sample_video,
    window_start,
)

MAX_FPS = 10_000.0
"""Ultrafast scanners reach some thousand frames a second."""


class RecordedSource:
    """A `ClipSource` over a folder with Videos/, FileList.csv and, for truth, VolumeTracings.csv.

    Holds the file list only: it is small to pickle, and each call reads one file, once, and decodes what it
    shows of it (`decode_video`): damage elsewhere in a video does not count against a clip. A
    frame that is not square is stretched to ``size`` x ``size``, and its truth with it. The frame rate is
    FileList.csv's, or the header's where the list has none: published synthetic videos carry a default
    rate in their headers.

    Args:
        path: the folder, a path or an fsspec URL.
        split: a value of the Split column, or ALL.
        seed: decides the order of videos and where windows start.
        num_frames: frames of a training window.
        fps: rate that clips are resampled to; 0 keeps each video's own.
        size: H = W in pixels of clips and cases.
        case_frames: largest number of frames of a case.

    Raises:
        InputError: the folder cannot be used at all (see `read_file_list` and `select_split`).
    """

    name = "recorded"

    def __init__(
        self, *, path: str, split: str, seed: int, num_frames: int, fps: float, size: int, case_frames: int
    ) -> None:
        self._path = path.rstrip("/")
        self._rows = select_split(read_file_list(self._path), split, self._path)
        self._seed = seed
        self._num_frames = num_frames
        self._fps = fps
        self._size = size
        self._case_frames = case_frames
        self._tracings: dict[str, dict[int, np.ndarray]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tracings": None}  # read again where it is used

    @property
    def num_cases(self) -> int:
        """Videos of the split."""
        return len(self._rows)

    def clip(self, index: int) -> VideoClip:
        """The window of this index. See `ClipSource.clip`.

        Raises:
            ClipError: the video cannot be used or is shorter than the window. The error's ``clip_id``
                attribute names the clip.
        """
        row, epoch = self._row(index, is_case=False)
        clip_id = f"recorded-{row.name}-s{self._seed}-e{epoch}"

        def wanted(num_frames: int, header_fps: float) -> tuple[int, int]:
            positions, _ = self._window(row, epoch, num_frames, _fps_of(row, header_fps))
            return int(positions[0]), min(int(positions[-1]) + 2, num_frames)  # samples lie between two frames

        with named(clip_id):
            decoded = read_video(self._path, row, window=wanted)
            own_fps = _fps_of(row, decoded.fps)
            positions, start = self._window(row, epoch, len(decoded.video), own_fps)
            window = sample_video(decoded.video, positions)
        return VideoClip(
            clip_id=f"{clip_id}-w{start}",
            index=index,
            seed=self._seed,
            epoch=epoch,
            window_start=start,
            video=resize_video(window, self._size),
            fps=self._fps or own_fps,
            source=self.name,
            domain="echonet",
            conditions=_conditions(row),
        )

    def case(self, index: int) -> VideoClip:
        """Video ``index`` in FileList.csv's order, cut to a stretch around its traced frames.

        One sample falls exactly on the traced ED frame; the sample nearest to the traced ES frame is moved
        onto it, by at most half a period of the target rate. So both masks lie on exactly the images
        that were traced. A stretch too short for both keeps ED; then, as where a video has fewer than two
        traced frames, ``ed_frames`` and ``es_frames`` say None for what is not known or not in it.
        ``window_start`` counts in samples of the resampled video.

        Raises:
            ClipError: the video cannot be used, or its tracings do not fit it. The error's ``clip_id``
                attribute names the case.
            InputError: there is no such case.
        """
        if not 0 <= index < len(self._rows):
            raise InputError(f"case {index} was asked for (evaluation.cases), {self._path} has {len(self._rows)}")
        row = self._rows[index]
        clip_id = f"recorded-{row.name}-s{self._seed}-case"
        with named(clip_id):
            decoded = read_video(self._path, row)
            video, own_fps = decoded.video, _fps_of(row, decoded.fps)
            masks, grid, start = self._stretch(row, video.shape, own_fps)
        stop = min(start + self._case_frames, len(grid.positions))
        inside = {sample: frame for sample, frame in grid.traced.items() if start <= sample < stop}
        return VideoClip(
            clip_id=f"{clip_id}-w{start}",
            index=index,
            seed=self._seed,
            epoch=0,
            window_start=start,
            video=resize_video(sample_video(video, grid.positions[start:stop]), self._size),
            fps=self._fps or own_fps,
            source=self.name,
            domain="echonet",
            conditions=_conditions(row),
            truth_labels=self._truth_labels(masks, inside, start, stop - start) if masks else None,
            ed_frames=(grid.ed - start,) if grid.ed in inside else None,
            es_frames=(grid.es - start,) if grid.es in inside else None,
        )

    def video_name(self, index: int, *, is_case: bool) -> str:
        """Name of the video that clip (or case) ``index`` is cut from, without a suffix."""
        return self._row(index, is_case=is_case)[0].name

    def own_frames(self, index: int, shape: tuple[int, int, int], *, is_case: bool) -> tuple[np.ndarray, int]:
        """Where clip (or case) ``index`` lies in its video, for what was made of the whole video: its masks, say.

        Args:
            index: as for `clip` or `case`.
            shape: (T, H, W) of the whole video, whose file is not read.
            is_case: whether it is a case.

        Returns:
            Positions in the video's own frames, float64 (frames of the clip,), and ``window_start``.

        Raises:
            ClipError: FileList.csv has no frame rate or another number of frames, or as `clip` and `case`.
        """
        row, epoch = self._row(index, is_case=is_case)
        if row.fps is None:
            raise ClipError(f"{row.file} has no FPS in FileList.csv, which what was made of the whole video needs")
        if row.num_frames is not None and row.num_frames != shape[0]:
            raise ClipError(f"{row.file} has {row.num_frames} frames in FileList.csv, what was made of it {shape[0]}")
        if not is_case:
            return self._window(row, epoch, shape[0], row.fps)
        _, grid, start = self._stretch(row, shape, row.fps)
        return grid.positions[start : start + self._case_frames], start

    def _row(self, index: int, *, is_case: bool) -> tuple[EchoNetRow, int]:
        """The video of a clip or case, and its epoch."""
        if is_case:
            return self._rows[index], 0
        epoch, position = divmod(index, len(self._rows))
        return self._rows[permuted_index(self._seed, epoch, position, len(self._rows))], epoch

    def _window(self, row: EchoNetRow, epoch: int, num_frames: int, own_fps: float) -> tuple[np.ndarray, int]:
        """Positions of a training window, and which of the video's samples is its first."""
        positions = resample_positions(num_frames, fps=own_fps, target_fps=self._fps)
        if len(positions) < self._num_frames:
            raise ClipError(
                f"{row.file} has {len(positions)} frames at {self._fps or own_fps:g} fps, "
                f"a training window needs {self._num_frames} (window.frames)"
            )
        start = window_start(self._seed, row.name, epoch, len(positions), self._num_frames)
        return positions[start : start + self._num_frames], start

    def _stretch(
        self, row: EchoNetRow, shape: tuple[int, ...], own_fps: float
    ) -> tuple[dict[int, np.ndarray], Grid, int]:
        """A case's traced masks, its samples, and the first of those that it shows."""
        masks = self._traced_masks(row, shape)
        grid = case_grid(masks, shape[0], own_fps, self._fps, row.file)
        return masks, grid, stretch_start(grid, self._case_frames)

    def _traced_masks(self, row: EchoNetRow, shape: tuple[int, ...]) -> dict[int, np.ndarray]:
        """Traced frame -> bool (H, W)."""
        if self._tracings is None:
            self._tracings = read_tracings(self._path, {known.name for known in self._rows})
        masks = {}
        for frame, rows in self._tracings.get(row.name, {}).items():
            if not 0 <= frame < shape[0]:
                raise ClipError(f"{row.file} has a tracing at frame {frame}, but only {shape[0]} frames")
            masks[frame] = tracing_to_mask(rows, *shape[1:])
            if not masks[frame].any():
                raise ClipError(f"{row.file} has a tracing at frame {frame} that lies outside the image")
        return masks

    def _truth_labels(
        self, masks: dict[int, np.ndarray], inside: dict[int, int], start: int, length: int
    ) -> np.ndarray:
        labels = np.full((length, self._size, self._size), TRUTH_UNKNOWN, dtype=np.uint8)
        for sample, frame in inside.items():
            labels[sample - start] = resize_labels(masks[frame][None].astype(np.uint8), self._size)[0]
        return labels


def _fps_of(row: EchoNetRow, header_fps: float) -> float:
    """Frame rate of a video."""
    fps = row.fps or header_fps
    if not fps > 0:
        raise ClipError(f"{row.file} has no frame rate, neither in FileList.csv (FPS) nor in its header")
    if not 1 <= fps <= MAX_FPS:  # resampled to window.fps, it would be millions of frames or none
        raise ClipError(f"{row.file} has {fps:g} frames a second, expected 1 .. {MAX_FPS:g}")
    return fps


def _conditions(row: EchoNetRow) -> Conditions:
    return Conditions(ef_percent=row.ef_percent, edv_ml=row.edv_ml, esv_ml=row.esv_ml)


@contextmanager
def named(clip_id: str) -> Iterator[None]:
    """Put the clip's id on a `ClipError` that passes, for the quarantine's row."""
    try:
        yield
    except ClipError as error:
        error.clip_id = clip_id  # type: ignore[attr-defined]
        raise
