"""Frames of a recording that make an evaluation case: at the target rate, with annotated frames hit exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.tracing import order_by_area
from echodfkd.sources.video.windows import resample_positions


@dataclass(frozen=True)
class Stretch:
    """Consecutive samples of a `CaseGrid`, numbered from 0.

    ``start`` is the grid's number of the first one. ``positions`` and ``traced`` are as in `CaseGrid`. ``ed_frames``
    and ``es_frames`` are None if the sample is unknown or outside.
    """

    start: int
    positions: np.ndarray
    traced: dict[int, int]
    ed_frames: tuple[int, ...] | None
    es_frames: tuple[int, ...] | None


@dataclass(frozen=True)
class CaseGrid:
    """Samples of a whole recording at the target rate.

    ``positions`` float64 (samples,), in the recording's own frames. ``traced`` maps a sample to its annotated frame.
    ``ed`` and ``es`` are samples, -1 if unknown.
    """

    positions: np.ndarray
    traced: dict[int, int]
    ed: int = -1
    es: int = -1

    def stretch(self, length: int) -> Stretch:
        """At most ``length`` samples with ED and ES in their middle, or only ED if both do not fit."""
        known = [sample for sample in (self.ed, self.es) if sample >= 0] or list(self.traced) or [0]
        first, last = min(known), max(known)
        if last - first + 1 > length:
            first = last = self.ed
        middle_start = first - (length - (last - first + 1)) // 2
        start = max(0, min(middle_start, len(self.positions) - length))
        positions = self.positions[start : start + length]
        inside = range(start, start + len(positions))
        return Stretch(
            start=start,
            positions=positions,
            traced={sample - start: frame for sample, frame in self.traced.items() if sample in inside},
            ed_frames=(self.ed - start,) if self.ed in inside else None,
            es_frames=(self.es - start,) if self.es in inside else None,
        )


def case_grid(masks: dict[int, np.ndarray], num_frames: int, fps: float, target_fps: float, file: str) -> CaseGrid:
    """Samples through the ED frame, with the nearest ones moved onto the other traced frames.

    Args:
        masks: traced frame to bool (H, W); the largest is ED, the smallest ES.
        num_frames: frames of the recording.
        fps: their rate.
        target_fps: the rate to resample to; 0 keeps ``fps``.
        file: the recording, for the error.

    Raises:
        ClipError: ED and ES have one area, or fall on one sample.
    """
    if len(masks) < 2:  # a single traced frame may be ED or ES
        anchor = next(iter(masks), 0)
        positions = resample_positions(num_frames, fps=fps, target_fps=target_fps, anchor=anchor)
        return CaseGrid(positions, {_nearest(positions, frame): frame for frame in masks})
    try:
        ed_frame, es_frame = order_by_area(masks)
    except ClipError as error:
        raise ClipError(f"{file}: {error}") from error
    return grid_through(ed_frame, es_frame, sorted(masks), num_frames, fps, target_fps, file)


def grid_through(
    ed_frame: int, es_frame: int, annotated: Sequence[int], num_frames: int, fps: float, target_fps: float, file: str
) -> CaseGrid:
    """As `case_grid` if the ED and ES frames are known. ``annotated`` holds both, ascending.

    Raises:
        ClipError: both fall on one sample.
    """
    step = 1.0 if target_fps == 0 else fps / target_fps
    positions = resample_positions(num_frames, fps=fps, target_fps=target_fps, anchor=ed_frame)
    # A frame beyond the outermost samples may be nearer to a sample outside: that one is added.
    if es_frame - positions[-1] > step / 2:
        positions = np.append(positions, es_frame)
    elif positions[0] - es_frame > step / 2:
        positions = np.insert(positions, 0, es_frame)
    ed, es = _nearest(positions, ed_frame), _nearest(positions, es_frame)
    if ed == es:
        raise ClipError(
            f"{file}: its traced frames {ed_frame} and {es_frame} fall on one frame at {target_fps:g} fps (window.fps)"
        )
    traced = {ed: ed_frame, es: es_frame}
    for frame in annotated:
        if abs(positions[_nearest(positions, frame)] - frame) <= step / 2:
            traced.setdefault(_nearest(positions, frame), frame)
    for sample, frame in traced.items():
        positions[sample] = frame
    return CaseGrid(positions, traced, ed, es)


def _nearest(positions: np.ndarray, frame: int) -> int:
    return int(np.argmin(np.abs(positions - frame)))
