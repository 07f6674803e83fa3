"""Recorded videos in EchoNet's layout as a source of clips and of evaluation cases.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from echodfkd.config.sections.sees import SeesConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.sources.case_grid import Stretch, case_grid
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.notes import Notes
from echodfkd.sources.recording_source import MAX_FPS, RecordingSource, named
from echodfkd.sources.video.echonet import find_videos, read_file_list, read_tracings, read_video
from echodfkd.sources.video.file_list import EchoNetRow, select_split
from echodfkd.sources.video.tracing import traced_mask
from echodfkd.sources.video.windows import aspect_note, resize_labels, resize_video, sample_video


class RecordedSource(RecordingSource[EchoNetRow]):
    """A `ClipSource` over a folder with Videos/, FileList.csv and, for truth, VolumeTracings.csv.

    All its lists are read when it is built, so that what fits nothing is known before anything trains (``notes``). It
    holds only the file list, so that it is small to pickle. Each call reads one file, once, and decodes only the frames
    it needs (`decode_video`): damage elsewhere in a video does not count against a clip. A frame that is not square is
    stretched to a square, and its truth with it. The frame rate is FileList.csv's, or the header's if the list has
    none: published synthetic videos carry a default rate in their headers.

    Args:
        path: the folder, a path or an fsspec URL.
        split: a value of the Split column, several with commas, or ALL.
        window: shape of clips and cases.
        seed: decides the order of videos and where windows start.

    Raises:
        InputError: the folder cannot be used at all (see `read_file_list`, `select_split`, `find_videos` and
            `parse_tracings`).
    """

    name = "recorded"
    domain = "echonet"

    def __init__(self, path: str, split: str, window: WindowSettings, *, seed: int) -> None:
        path, notes = path.rstrip("/"), Notes()
        rows = read_file_list(path, notes)
        chosen = find_videos(path, select_split(rows, split, path), notes)
        super().__init__(path, chosen, window, seed=seed)
        self._listed = frozenset(row.name for row in rows)
        if tracings := read_tracings(path, self._listed, notes):
            for row in chosen:
                if row.name not in tracings:
                    notes.count(f"videos of split {split} without a tracing", repr(row.name))
                elif row.num_frames is not None and (last := max(tracings[row.name])) >= row.num_frames:
                    example = f"{row.name!r} frame {last} of {row.num_frames}"
                    notes.count("videos with a tracing behind the last frame (frames count from 0)", example)
        self.notes = notes.sentences
        self._tracings: dict[str, dict[int, np.ndarray]] | None = None  # read again by the process that needs them
        self._shapes: dict[str, tuple[tuple[int, int, int], float]] = {}
        self._pair_of: RecordedSource | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tracings": None, "_shapes": {}}

    def clip(self, index: int) -> VideoClip:
        """The window of this index. See `ClipSource.clip`.

        Raises:
            ClipError: the video cannot be used or is shorter than the window. The error's ``clip_id``
                attribute names the clip.
        """
        row, epoch = self._recording(index, is_case=False)
        clip_id = f"recorded-{row.name}-s{self._seed}-e{epoch}"

        def wanted(num_frames: int, header_fps: float) -> tuple[int, int]:
            positions, _ = self._window_of(row, epoch, num_frames, _fps_of(row, header_fps))
            return int(positions[0]), min(int(positions[-1]) + 2, num_frames)  # samples lie between two frames

        with named(clip_id):
            decoded = read_video(self._path, row, window=wanted)
            own_fps = _fps_of(row, decoded.fps)
            self._check_pair(row, decoded.video.shape, own_fps)
            positions, start = self._window_of(row, epoch, len(decoded.video), own_fps)
            window = sample_video(decoded.video, positions)
        return self._make(
            clip_id,
            index,
            epoch,
            start,
            video=resize_video(window, self._settings.size),
            fps=self._settings.fps or own_fps,
            conditions=row.conditions,
            warnings=tuple(f"{row.file} {note}" for note in aspect_note(decoded.pixel_aspect)),
        )

    def case(self, index: int) -> VideoClip:
        """Video ``index`` in FileList.csv's order, cut to a stretch around its traced frames.

        One sample falls exactly on the traced ED frame; the sample nearest to the traced ES frame is moved
        onto it, by at most half a period of the target rate. So both masks lie on exactly the images
        that were traced. A stretch too short for both keeps ED. ``ed_frames`` and ``es_frames`` are None if the frame
        is outside the stretch or the video has fewer than two traced frames. ``window_start`` counts in samples of the
        resampled video.

        Raises:
            ClipError: the video cannot be used, or its tracings do not fit it. The error's ``clip_id``
                attribute names the case.
            InputError: there is no such case.
        """
        row, epoch = self._recording(index, is_case=True)
        clip_id = f"recorded-{row.name}-s{self._seed}-case"
        with named(clip_id):
            decoded = read_video(self._path, row)
            own_fps = _fps_of(row, decoded.fps)
            masks, stretch = self._stretch_of(row, decoded.video.shape, own_fps)
        return self._make(
            clip_id,
            index,
            epoch,
            stretch.start,
            video=resize_video(sample_video(decoded.video, stretch.positions), self._settings.size),
            fps=self._settings.fps or own_fps,
            conditions=row.conditions,
            warnings=tuple(f"{row.file} {note}" for note in aspect_note(decoded.pixel_aspect)),
            truth_labels=self._truth_labels(masks, stretch) if masks else None,
            ed_frames=stretch.ed_frames,
            es_frames=stretch.es_frames,
        )

    def seen_as(self, sees: SeesConfig) -> RecordedSource:
        """See `RecordingSource.seen_as`."""
        other = super().seen_as(sees)
        if not sees.path:
            return other
        pair = RecordedSource(sees.path, "ALL", other._settings, seed=self._seed)
        there = {row.name: row for row in pair._recordings}
        if missing := [row.name for row in self._recordings if row.name not in there]:
            raise InputError(
                f"teacher.sees.path: {sees.path} has no video of the name of {len(missing)} of"
                f" {len(self._recordings)} in {self._path}, e.g. {missing[0]!r}"
            )
        pair._recordings = [there[row.name] for row in self._recordings]
        pair._pair_of = self
        return pair

    def _check_pair(self, row: EchoNetRow, shape: tuple[int, ...], fps: float) -> None:
        """Refuse a video that does not show what the other source's of this name does. Raises `ClipError`."""
        if self._pair_of is None:
            return
        own = next(one for one in self._pair_of._recordings if one.name == row.name)
        (T, H, W), own_fps = self._pair_of._known(own)
        same = T == shape[0] and math.isclose(fps, own_fps, rel_tol=1e-6) and H * shape[2] == W * shape[1]
        if not same:
            raise ClipError(
                f"{row.file} in {self._path} (teacher.sees.path) has {shape[0]} frames of {shape[2]} x {shape[1]} at"
                f" {fps:g} fps, the student's has {T} of {W} x {H} at {own_fps:g}; frames, rate and proportions must"
                " agree"
            )

    def video_name(self, index: int, *, is_case: bool) -> str:
        """Name of the video that clip (or case) ``index`` is cut from, without a suffix."""
        return self._recording(index, is_case=is_case)[0].name

    def video_shape(self, index: int, *, is_case: bool) -> tuple[int, int, int]:
        """(T, H, W) of the video that clip (or case) ``index`` is cut from. Raises `ClipError`."""
        return self._known(self._recording(index, is_case=is_case)[0])[0]

    def own_frames(self, index: int, *, is_case: bool) -> tuple[np.ndarray, int]:
        """Place of clip (or case) ``index`` in its video, to cut data of the whole video (masks, say) alike.

        Returns:
            Positions in the video's own frames, float64 (frames of the clip,), and ``window_start``.

        Raises:
            ClipError: as `clip` and `case`.
        """
        row, epoch = self._recording(index, is_case=is_case)
        shape, fps = self._known(row)
        if not is_case:
            return self._window_of(row, epoch, shape[0], fps)
        _, stretch = self._stretch_of(row, shape, fps)
        return stretch.positions, stretch.start

    def _known(self, row: EchoNetRow) -> tuple[tuple[int, int, int], float]:
        """Shape and frame rate of a video, which is opened once for them."""
        if row.name not in self._shapes:
            decoded = read_video(self._path, row, window=lambda num_frames, header_fps: (0, 1))
            T, H, W = decoded.video.shape
            self._shapes[row.name] = (T, H, W), _fps_of(row, decoded.fps)
        return self._shapes[row.name]

    def _window_of(self, row: EchoNetRow, epoch: int, num_frames: int, own_fps: float) -> tuple[np.ndarray, int]:
        return self._window(row.name, row.file, epoch, num_frames, own_fps, self._settings.fps)

    def _stretch_of(
        self, row: EchoNetRow, shape: tuple[int, ...], own_fps: float
    ) -> tuple[dict[int, np.ndarray], Stretch]:
        """A case's traced masks by frame, and its samples."""
        masks = self._traced_masks(row, shape)
        grid = case_grid(masks, shape[0], own_fps, self._settings.fps, row.file)
        return masks, grid.stretch(self._settings.case_frames)

    def _traced_masks(self, row: EchoNetRow, shape: tuple[int, ...]) -> dict[int, np.ndarray]:
        """Traced frame -> bool (H, W)."""
        if self._tracings is None:
            tracings = read_tracings(self._path, self._listed)
            self._tracings = {row.name: tracings.get(row.name, {}) for row in self._recordings}
        traced = self._tracings[row.name]
        if traced and row.frame_size not in (None, shape[1:]):
            raise ClipError(
                f"{row.file} has frames of {shape[2]} x {shape[1]}, its tracings are those of frames of"
                f" {row.frame_size[1]} x {row.frame_size[0]} (FileList.csv)"
            )
        masks = {}
        for frame, rows in traced.items():
            if not 0 <= frame < shape[0]:
                raise ClipError(f"{row.file} has a tracing at frame {frame}, but only {shape[0]} frames")
            try:
                masks[frame] = traced_mask(rows, *shape[1:])
            except ClipError as error:
                raise ClipError(f"{row.file}, frame {frame} of VolumeTracings.csv: {error}") from error
        return masks

    def _truth_labels(self, masks: dict[int, np.ndarray], stretch: Stretch) -> np.ndarray:
        size = self._settings.size
        labels = np.full((len(stretch.positions), size, size), TRUTH_UNKNOWN, dtype=np.uint8)
        for sample, frame in stretch.traced.items():
            labels[sample] = resize_labels(masks[frame][None].astype(np.uint8), size)[0]
        return labels


def _fps_of(row: EchoNetRow, header_fps: float) -> float:
    """Frame rate of a video. Raises `ClipError`."""
    fps = row.fps or header_fps
    if not fps > 0:
        raise ClipError(f"{row.file} has no frame rate, neither in FileList.csv (FPS) nor in its header")
    if not 1 <= fps <= MAX_FPS:  # resampled to window.fps, it would be millions of frames or none
        raise ClipError(f"{row.file} has {fps:g} frames a second, expected 1 .. {MAX_FPS:g}")
    return fps
