"""A source whose clips carry a second rendering, which the teacher sees (`teacher.sees`)."""

from __future__ import annotations

from dataclasses import replace

from echodfkd.config.sections.sees import SeesConfig
from echodfkd.core.errors import ClipError
from echodfkd.core.records import VideoClip
from echodfkd.sources.clip_source import ClipSource, OtherRenderings
from echodfkd.sources.recording_source import named


class SeenSource:
    """Adds to each training clip of a source its other rendering; cases stay as they are.

    Args:
        source: the student's.
        sees: the other rendering, which the source has (`echodfkd.config.rules.sees`).

    Raises:
        InputError: there is none of a recording.
    """

    def __init__(self, source: ClipSource, sees: SeesConfig) -> None:
        assert isinstance(source, OtherRenderings), "check_sees: generated clips have one rendering"
        self.name, self.notes = source.name, source.notes
        self._own, self._other, self._word = source, source.seen_as(sees), sees.name

    @property
    def num_cases(self) -> int | None:
        """See `ClipSource.num_cases`."""
        return self._own.num_cases

    def clip(self, index: int) -> VideoClip:
        """Training clip ``index`` with ``seen_id`` and ``seen_video``. See `ClipSource.clip`."""
        clip, seen = self._own.clip(index), self._other.clip(index)
        own, other = ((len(one.video), one.fps, one.window_start) for one in (clip, seen))
        if own != other:
            with named(clip.clip_id):
                raise ClipError(
                    "the teacher's rendering (teacher.sees) has {} frames at {:g} fps from frame {}".format(*other)
                    + ", the student's {} at {:g} from {}".format(*own)
                )
        return replace(clip, seen_id=f"{clip.clip_id}+{self._word}", seen_video=seen.video)

    def case(self, index: int) -> VideoClip:
        """See `ClipSource.case`."""
        return self._own.case(index)
