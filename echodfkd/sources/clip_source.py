"""A source of clips: an endless, pure function from an index to a clip, plus a finite set of held-out cases."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from echodfkd.core.records import VideoClip


@runtime_checkable
class ClipSource(Protocol):
    """Every generator and every data set looks like this to the run.

    Both methods are pure functions of the source's own settings and ``index``: any clip can be made again,
    on any machine, from its index alone, and no two indices of one source share a ``clip_id``.
    """

    name: str

    @property
    def num_cases(self) -> int | None:
        """How many evaluation cases exist; None where there is no end to them."""
        ...

    def clip(self, index: int) -> VideoClip:
        """The training window of this index: ``window.frames`` frames at ``window.fps``, ``window.size`` pixels a side.

        Raises:
            ClipError: this index cannot be used (a truncated file, a clip shorter than the window).
        """
        ...

    def case(self, index: int) -> VideoClip:
        """Evaluation case ``index``: at least one beat, with truth where there is any.

        Raises:
            ClipError: this case cannot be used.
        """
        ...
