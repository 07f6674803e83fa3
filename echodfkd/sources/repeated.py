"""A source of so many clips, which come again and again, as those of a data set of this size."""

from __future__ import annotations

from dataclasses import replace

from echodfkd.core.records import VideoClip
from echodfkd.sources.clip_source import ClipSource


class RepeatedSource:
    """The first clips of a source in turn; a clip that comes back has its index and id, and another epoch.

    Args:
        source: gives the clips.
        clips: how many there are.
    """

    def __init__(self, source: ClipSource, clips: int) -> None:
        self.name, self.notes = source.name, source.notes
        self._source, self._clips = source, clips

    @property
    def num_cases(self) -> int | None:
        """See `ClipSource.num_cases`."""
        return self._source.num_cases

    def clip(self, index: int) -> VideoClip:
        """The clip of ``index`` modulo their number. See `ClipSource.clip`."""
        epoch, place = divmod(index, self._clips)
        clip = self._source.clip(place)
        return replace(clip, epoch=clip.epoch + epoch)

    def case(self, index: int) -> VideoClip:
        """See `ClipSource.case`."""
        return self._source.case(index)
