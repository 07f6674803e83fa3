"""Find a clip in the recorded video that it was cut from, for masks that were stored for whole videos."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.recorded import RecordedSource


class SourcePlacement:
    """`recorded.Placement` by the source of the clips. Its methods raise `ClipError` if that is no recorded one.

    Args:
        source_of: the source of a clip.
    """

    def __init__(self, source_of: Callable[[ClipKey], ClipSource]) -> None:
        self._source_of = source_of

    def video_name(self, clip: ClipKey) -> str:
        """See `recorded.Placement.video_name`."""
        return self._source(clip).video_name(clip.index, is_case=clip.is_case)

    def frames(self, clip: ClipKey, shape: tuple[int, int, int]) -> tuple[np.ndarray, int]:
        """See `recorded.Placement.frames`."""
        return self._source(clip).own_frames(clip.index, shape, is_case=clip.is_case)

    def _source(self, clip: ClipKey) -> RecordedSource:
        source = self._source_of(clip)
        if not isinstance(source, RecordedSource):
            raise ClipError(
                f"{clip.clip_id} is cut from no recorded video, so that no stored mask of one belongs to it"
            )
        return source
