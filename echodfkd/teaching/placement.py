"""Find a clip in the recorded video that it was cut from, for masks stored for whole videos; or make a clip again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.core.records import VideoClip
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.mixture import MixtureSource
from echodfkd.sources.recorded import RecordedSource


class SourcePlacement:
    """`recorded.Placement` by the source of the clips. But for `clip` its methods raise `ClipError` if that is no
    recorded one.

    Args:
        source_of: the source of a clip.
    """

    def __init__(self, source_of: Callable[[ClipKey], ClipSource]) -> None:
        self._source_of = source_of

    def clip(self, clip: ClipKey) -> VideoClip:
        """The clip of this key with its truth; any source has it. Raises `ClipError` if it cannot be made."""
        source = self._source_of(clip)
        return source.case(clip.index) if clip.is_case else source.clip(clip.index)

    def video_name(self, clip: ClipKey) -> str:
        """See `recorded.Placement.video_name`."""
        source, index = self._source(clip)
        return source.video_name(index, is_case=clip.is_case)

    def video_shape(self, clip: ClipKey) -> tuple[int, int, int]:
        """See `recorded.Placement.video_shape`."""
        source, index = self._source(clip)
        return source.video_shape(index, is_case=clip.is_case)

    def frames(self, clip: ClipKey) -> tuple[np.ndarray, int]:
        """See `recorded.Placement.frames`."""
        source, index = self._source(clip)
        return source.own_frames(index, is_case=clip.is_case)

    def _source(self, clip: ClipKey) -> tuple[RecordedSource, int]:
        """The recorded source of a clip, perhaps as part of a mixture, and the clip's index there."""
        source, index = self._source_of(clip), clip.index
        while isinstance(source, MixtureSource):
            source, index = source.part_of(index, is_case=clip.is_case)
        if not isinstance(source, RecordedSource):
            raise ClipError(
                f"{clip.clip_id} is cut from no recorded video, so that no stored mask of one belongs to it"
            )
        return source, index


def has_videos(source: ClipSource) -> bool:
    """Whether clips of this source may be cut from recorded videos."""
    if isinstance(source, MixtureSource):
        return any(has_videos(part) for part in source.parts.values())
    return isinstance(source, RecordedSource)
