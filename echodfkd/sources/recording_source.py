"""The common part of sources that cut clips out of recordings: epochs, windows, cases.

Epochs are arithmetic on the clip index: of n recordings, index i is recording ``i % n`` of the permutation of epoch
``i // n``, so that n indices in a row from a multiple of n visit each recording once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Generic, Self, TypeVar

import numpy as np

from echodfkd.config.sections.sees import SeesConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.video.windows import permuted_index, resample_positions, window_start

Recording = TypeVar("Recording")

MAX_FPS = 10_000.0
"""Ultrafast scanners reach some thousand frames a second."""


class RecordingSource(Generic[Recording]):
    """Base class of the sources over a folder.

    Args:
        path: the folder, a path or an fsspec URL, for error messages.
        recordings: identities of the recordings, in the order of the cases.
        window: shape of clips and cases.
        seed: decides the order of recordings and where windows start.
    """

    name: str
    domain: str
    notes: tuple[str, ...] = ()

    def __init__(self, path: str, recordings: Sequence[Recording], window: WindowSettings, *, seed: int) -> None:
        self._path = path
        self._recordings = recordings
        self._settings = window
        self._seed = seed

    @property
    def num_cases(self) -> int:
        """Recordings of the split."""
        return len(self._recordings)

    def seen_as(self, sees: SeesConfig) -> Self:
        """The source of the same clips in another rendering. Raises `InputError` if there is none of a recording."""
        other = copy.copy(self)
        other._settings = replace(self._settings, size=sees.size or self._settings.size)
        return other

    def _recording(self, index: int, *, is_case: bool) -> tuple[Recording, int]:
        """The recording of a clip or case, and its epoch.

        Raises:
            InputError: there is no such case.
        """
        count = len(self._recordings)
        if not is_case:
            epoch, position = divmod(index, count)
            return self._recordings[permuted_index(self._seed, epoch, position, count)], epoch
        if not 0 <= index < count:
            raise InputError(f"case {index} was asked for (evaluation.cases), {self._path} has {count}")
        return self._recordings[index], 0

    def _window(
        self, key: str, name: str, epoch: int, num_frames: int, fps: float, target_fps: float
    ) -> tuple[np.ndarray, int]:
        """Positions of a training window in the recording's frames, and the number of its first resampled frame.

        Args:
            key: the recording, for the draw of the window's start.
            name: the recording, for the error.
            epoch: epoch of the clip.
            num_frames: frames of the recording.
            fps: their rate.
            target_fps: the rate to resample to; 0 keeps ``fps``.

        Raises:
            ClipError: the recording is shorter than the window.
        """
        positions, wanted = resample_positions(num_frames, fps=fps, target_fps=target_fps), self._settings.frames
        if len(positions) < wanted:
            raise ClipError(
                f"{name} has {len(positions)} frames at {target_fps or fps:g} fps, "
                f"a training window needs {wanted} (window.frames)"
            )
        start = window_start(self._seed, key, epoch, len(positions), wanted)
        return positions[start : start + wanted], start

    def _make(self, clip_id: str, index: int, epoch: int, start: int, **fields: Any) -> VideoClip:
        """The record of a clip or case that begins at resampled frame ``start``; ``fields`` are its other fields."""
        return VideoClip(
            clip_id=f"{clip_id}-w{start}",
            index=index,
            seed=self._seed,
            epoch=epoch,
            window_start=start,
            source=self.name,
            domain=self.domain,
            **fields,
        )


@contextmanager
def named(clip_id: str) -> Iterator[None]:
    """Set ``clip_id`` on a `ClipError` raised in the block, for the quarantine's row."""
    try:
        yield
    except ClipError as error:
        error.clip_id = clip_id  # type: ignore[attr-defined]
        raise
