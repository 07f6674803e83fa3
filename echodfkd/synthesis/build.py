"""One dictionary: a source's name -> its builder, imported when it is used."""

from __future__ import annotations

from collections.abc import Callable

from echodfkd.config import SourceConfig, WindowConfig
from echodfkd.synthesis.source import ClipSource


def build_source(source: SourceConfig, window: WindowConfig, *, seed: int, case_frames: int) -> ClipSource:
    """Build the source that the config names.

    Args:
        source: kind and place of the clips.
        window: what training clips are cut to.
        seed: the run's seed.
        case_frames: frames of one evaluation case.

    Raises:
        InputError: the source cannot be used at all (missing or empty folder).
    """
    return _BUILDERS[source.kind](source, window, seed + source.seed_offset, case_frames)


def _phantom(source: SourceConfig, window: WindowConfig, seed: int, case_frames: int) -> ClipSource:
    from echodfkd.synthesis.phantom import PhantomSource

    return PhantomSource(
        seed=seed,
        num_frames=window.frames,
        fps=window.fps,
        size=window.size,
        case_frames=case_frames,
    )


def _recorded(source: SourceConfig, window: WindowConfig, seed: int, case_frames: int) -> ClipSource:
    from echodfkd.synthesis.recorded import RecordedSource

    return RecordedSource(
        path=source.path,
        split=source.split,
        seed=seed,
        num_frames=window.frames,
        fps=window.fps,
        size=window.size,
        case_frames=case_frames,
    )


_BUILDERS: dict[str, Callable[[SourceConfig, WindowConfig, int, int], ClipSource]] = {
    "phantom": _phantom,
    "recorded": _recorded,
}
