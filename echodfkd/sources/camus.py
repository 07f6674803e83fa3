"""CAMUS as a source of labelled evaluation cases, and of training windows if half cycles are long enough.

Legend: T frames, H rows, W columns.

CAMUS's pixels are not square: frames are padded with black until they are square in millimetres and then resized, so
that shapes, distances and volumes are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.sources.case_grid import grid_through
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.notes import Notes
from echodfkd.sources.recording_source import RecordingSource, named
from echodfkd.sources.video.camus_files import (
    CAMUS_CLASSES,
    VIEWS,
    CamusRecording,
    check_recordings,
    list_patients,
    read_recording,
)
from echodfkd.sources.video.windows import pad_to_square, resize_labels, resize_video, sample_video

UNKNOWN_FPS = 50.0
"""Rate given to a recording that states none; it is not resampled. Chosen, near the rates that CAMUS states."""


class CamusSource(RecordingSource[tuple[str, str]]):
    """A `ClipSource` over a folder in one of CAMUS's layouts (`echodfkd.sources.video.camus_files`).

    Args:
        path: the folder, a path or an fsspec URL.
        split: TRAIN, VAL or TEST (lists of the NIfTI layout), or ALL.
        view: 2CH, 4CH, or "" for both; each view of a patient is a case.
        window: shape of clips and cases.
        seed: decides the order of recordings and where windows start.

    Raises:
        InputError: the folder cannot be used at all (see `list_patients` and `check_recordings`).
    """

    name = "camus"
    domain = "camus"

    def __init__(self, path: str, split: str, view: str, window: WindowSettings, *, seed: int) -> None:
        path = path.rstrip("/")
        views = [view] if view else list(VIEWS)
        recordings = [(patient, name) for patient in list_patients(path, split) for name in views]
        notes = Notes()
        check_recordings(path, recordings, notes)
        self.notes = notes.sentences
        super().__init__(path, recordings, window, seed=seed)

    def clip(self, index: int) -> VideoClip:
        """The window of this index, without labels. See `ClipSource.clip`.

        Raises:
            ClipError: the recording cannot be used, or is shorter than the window, as most half cycles are. The
                error's ``clip_id`` attribute names the clip.
        """
        (patient, view), epoch = self._recording(index, is_case=False)
        key = f"{patient}_{view}"
        clip_id = f"camus-{key}-s{self._seed}-e{epoch}"
        with named(clip_id):
            found = read_recording(self._path, patient, view)
            positions, start = self._window(key, key, epoch, len(found.video), _fps(found), self._target(found))
            video, spacing = self._square(sample_video(found.video, positions), found, resize_video)
        return self._make(
            clip_id,
            index,
            epoch,
            start,
            video=video,
            fps=self._target(found) or _fps(found),
            spacing_mm=spacing,
            conditions=found.conditions,
        )

    def case(self, index: int) -> VideoClip:
        """Recording ``index``, cut to a stretch around ED and ES; samples fall exactly on both.

        Samples between two frames of the recording have no labels. If ``window.fps`` differs from the recording's
        own rate, these are most samples but ED and ES; with 0 every labelled frame keeps its labels.

        Raises:
            ClipError: the recording cannot be used. The error's ``clip_id`` attribute names the case.
            InputError: there is no such case.
        """
        (patient, view), epoch = self._recording(index, is_case=True)
        key = f"{patient}_{view}"
        clip_id = f"camus-{key}-s{self._seed}-case"
        with named(clip_id):
            found = read_recording(self._path, patient, view)
            ed, es = found.ed_frame, found.es_frame
            grid = grid_through(ed, es, sorted((ed, es)), len(found.video), _fps(found), self._target(found), key)
            stretch = grid.stretch(self._settings.case_frames)
            video, spacing = self._square(sample_video(found.video, stretch.positions), found, resize_video)
            labels, _ = self._square(_labels_at(found.labels, stretch.positions), found, resize_labels)
        return self._make(
            clip_id,
            index,
            epoch,
            stretch.start,
            video=video,
            fps=self._target(found) or _fps(found),
            spacing_mm=spacing,
            conditions=found.conditions,
            truth_labels=labels if (labels != TRUTH_UNKNOWN).any() else None,
            class_names=CAMUS_CLASSES,
            ed_frames=stretch.ed_frames,
            es_frames=stretch.es_frames,
        )

    def _target(self, found: CamusRecording) -> float:
        """Rate to resample to; 0 (its own) for a recording whose rate is unknown."""
        return self._settings.fps if found.fps is not None else 0.0

    def _square(
        self, frames: np.ndarray, found: CamusRecording, resize: Callable[[np.ndarray, int], np.ndarray]
    ) -> tuple[np.ndarray, float]:
        padded, side_mm = pad_to_square(frames, found.spacing_mm)
        return resize(padded, self._settings.size), side_mm / self._settings.size


def _labels_at(labels_THW: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Labels of samples that fall on a frame; others are unknown."""
    found = labels_THW[np.rint(positions).astype(np.int64)].copy()
    found[np.abs(positions - np.rint(positions)) > 1e-6] = TRUTH_UNKNOWN
    return found


def _fps(found: CamusRecording) -> float:
    return found.fps or UNKNOWN_FPS
