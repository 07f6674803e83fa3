"""CAMUS as a source of labelled evaluation cases (and of training windows, where a half cycle is long enough).

Legend: T frames, H rows, W columns.

CAMUS's pixels are not square: a frame gets black rows or columns on both sides until it is a square in millimetres,
and is then resized, so that shapes, distances and volumes stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.sources.case_grid import grid_through, stretch_start
from echodfkd.sources.recorded import named
from echodfkd.sources.video.camus_files import CAMUS_CLASSES, VIEWS, CamusRecording, list_patients, read_recording
from echodfkd.sources.video.windows import (
    permuted_index,
    resample_positions,
    resize_labels,
    resize_video,
    sample_video,
    window_start,
)

UNKNOWN_FPS = 50.0
"""Rate that a recording without one is said to have; it is not resampled. Chosen, near the rates that CAMUS states."""


class CamusSource:
    """A `ClipSource` over a folder in one of CAMUS's layouts (`echodfkd.sources.video.camus_files`).

    Args:
        path: the folder, a path or an fsspec URL.
        split: TRAIN, VAL or TEST (lists of the NIfTI layout), or ALL.
        view: 2CH, 4CH, or "" for both; a patient's views are cases of their own.
        seed: decides the order of recordings and where windows start.
        num_frames: frames of a training window.
        fps: rate that clips are resampled to; 0 keeps each recording's own.
        size: H = W in pixels of clips and cases.
        case_frames: largest number of frames of a case.

    Raises:
        InputError: the folder cannot be used at all (see `list_patients`).
    """

    name = "camus"

    def __init__(
        self,
        *,
        path: str,
        split: str,
        view: str,
        seed: int,
        num_frames: int,
        fps: float,
        size: int,
        case_frames: int,
    ) -> None:
        self._path = path.rstrip("/")
        views = [view] if view else list(VIEWS)
        self._recordings = [(patient, name) for patient in list_patients(self._path, split) for name in views]
        self._seed = seed
        self._num_frames = num_frames
        self._fps = fps
        self._size = size
        self._case_frames = case_frames

    @property
    def num_cases(self) -> int:
        """Recordings of the split: patients times views."""
        return len(self._recordings)

    def clip(self, index: int) -> VideoClip:
        """The window of this index, without labels. See `ClipSource.clip`.

        Raises:
            ClipError: the recording cannot be used, or is shorter than the window, as most half cycles are. The
                error's ``clip_id`` attribute names the clip.
        """
        epoch, position = divmod(index, len(self._recordings))
        patient, view = self._recordings[permuted_index(self._seed, epoch, position, len(self._recordings))]
        clip_id = f"camus-{patient}_{view}-s{self._seed}-e{epoch}"
        with named(clip_id):
            found = read_recording(self._path, patient, view)
            positions = resample_positions(len(found.video), fps=_fps(found), target_fps=self._target(found))
            if len(positions) < self._num_frames:
                raise ClipError(
                    f"{patient}_{view} has {len(positions)} frames at {self._target(found) or _fps(found):g} fps, "
                    f"a training window needs {self._num_frames} (window.frames)"
                )
            start = window_start(self._seed, f"{patient}_{view}", epoch, len(positions), self._num_frames)
            video = sample_video(found.video, positions[start : start + self._num_frames])
            video, spacing = self._square(video, found, resize_video)
        return VideoClip(
            clip_id=f"{clip_id}-w{start}",
            index=index,
            seed=self._seed,
            epoch=epoch,
            window_start=start,
            video=video,
            fps=self._target(found) or _fps(found),
            source=self.name,
            domain="camus",
            spacing_mm=spacing,
            conditions=found.conditions,
        )

    def case(self, index: int) -> VideoClip:
        """Recording ``index``, cut to a stretch around ED and ES; samples fall exactly on both.

        Samples between two frames of the recording have no labels: with ``window.fps`` other than the recording's own
        these are most but ED and ES; with 0 every labelled frame keeps its labels.

        Raises:
            ClipError: the recording cannot be used. The error's ``clip_id`` attribute names the case.
            InputError: there is no such case.
        """
        if not 0 <= index < len(self._recordings):
            raise InputError(f"case {index} was asked for (evaluation.cases), {self._path} has {self.num_cases}")
        patient, view = self._recordings[index]
        clip_id = f"camus-{patient}_{view}-s{self._seed}-case"
        with named(clip_id):
            found = read_recording(self._path, patient, view)
            both = sorted((found.ed_frame, found.es_frame))
            grid = grid_through(
                found.ed_frame, found.es_frame, both, len(found.video), _fps(found), self._target(found),
                f"{patient}_{view}",
            )  # fmt: skip
            start = stretch_start(grid, self._case_frames)
            positions = grid.positions[start : start + self._case_frames]
            video, spacing = self._square(sample_video(found.video, positions), found, resize_video)
            labels, _ = self._square(_labels_at(found.labels, positions), found, resize_labels)
        inside = range(start, start + len(positions))
        return VideoClip(
            clip_id=f"{clip_id}-w{start}",
            index=index,
            seed=self._seed,
            epoch=0,
            window_start=start,
            video=video,
            fps=self._target(found) or _fps(found),
            source=self.name,
            domain="camus",
            spacing_mm=spacing,
            conditions=found.conditions,
            truth_labels=labels if (labels != TRUTH_UNKNOWN).any() else None,
            class_names=CAMUS_CLASSES,
            ed_frames=(grid.ed - start,) if grid.ed in inside else None,
            es_frames=(grid.es - start,) if grid.es in inside else None,
        )

    def _target(self, found: CamusRecording) -> float:
        """Rate to resample to; 0 for a recording whose own is not known."""
        return self._fps if found.fps is not None else 0.0

    def _square(
        self, frames: np.ndarray, found: CamusRecording, resize: Callable[[np.ndarray, int], np.ndarray]
    ) -> tuple[np.ndarray, float]:
        padded, side_mm = pad_to_square(frames, found.spacing_mm)
        return resize(padded, self._size), side_mm / self._size


def pad_to_square(frames_THW: np.ndarray, spacing_mm: tuple[float, float]) -> tuple[np.ndarray, float]:
    """Add rows or columns of zeros, the same on both sides, until frames are square in millimetres.

    Args:
        frames_THW: images or labels; labels of a frame that has none (`TRUTH_UNKNOWN` everywhere) get unknown borders.
        spacing_mm: height and width of a pixel.

    Returns:
        The frames, square to half a pixel, and their side in millimetres.
    """
    _, H, W = frames_THW.shape
    sides = H * spacing_mm[0], W * spacing_mm[1]
    side = max(sides)
    rows, columns = (round((side - own) / step) for own, step in zip(sides, spacing_mm, strict=True))
    edges = ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))
    padded = np.pad(frames_THW, edges)
    padded[(frames_THW == TRUTH_UNKNOWN).all(axis=(1, 2))] = TRUTH_UNKNOWN
    return padded, side


def _labels_at(labels_THW: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Labels of samples that fall on a frame; others are unknown."""
    found = labels_THW[np.rint(positions).astype(np.int64)].copy()
    found[np.abs(positions - np.rint(positions)) > 1e-6] = TRUTH_UNKNOWN
    return found


def _fps(found: CamusRecording) -> float:
    return found.fps or UNKNOWN_FPS
