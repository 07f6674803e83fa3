"""The protocol of a clip source: a pure function from an index to a clip, and a set of held-out evaluation cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from echodfkd.config.sections.sees import SeesConfig
from echodfkd.core.records import VideoClip


@dataclass(frozen=True)
class WindowSettings:
    """Shape of the clips and cases of a source.

    ``frames`` is the length T of a training window. ``fps`` is the rate of clips and cases; 0 keeps each recording's
    own. ``size`` is H = W in pixels. ``case_frames`` is the largest number of frames of an evaluation case.

    Example: ``WindowSettings(frames=16, fps=32.0, size=56, case_frames=64)``.
    """

    frames: int
    fps: float
    size: int
    case_frames: int


@runtime_checkable
class ClipSource(Protocol):
    """The interface of every generator and every data set.

    Both methods are pure functions of the source's own settings and ``index``: any clip can be made again,
    on any machine, from its index only, and no two indices of one source share a ``clip_id`` (but for `source.clips`).
    """

    name: str
    notes: tuple[str, ...]
    """Facts on the data that a user must know before anything trains (`echodfkd.sources.notes`)."""

    @property
    def num_cases(self) -> int | None:
        """Number of evaluation cases; None if there is no end to them."""
        ...

    def clip(self, index: int) -> VideoClip:
        """The training window of this index: ``window.frames`` frames at ``window.fps``, ``window.size`` pixels a side.

        Raises:
            ClipError: this index cannot be used (a truncated file, a clip shorter than the window).
        """
        ...

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``: at least one beat, with truth if there is any.

        Raises:
            ClipError: this case cannot be used.
        """
        ...


@runtime_checkable
class OtherRenderings(ClipSource, Protocol):
    """A source that can show its clips in another way."""

    def seen_as(self, sees: SeesConfig) -> ClipSource:
        """The source that gives, under each index, the same patient and beat at the same place in another rendering.

        Raises:
            InputError: there is none of a recording.
        """
        ...
