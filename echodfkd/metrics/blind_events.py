"""End-diastole and end-systole of every beat, found in the area curve only.

No threshold refers to the range of the whole clip: a patient who breathes, or a probe that slides, moves the curve by
more than a failing heart does. The curve is smoothed, freed of what is slower than a beat, and cut at its turning
points; a turning point counts if the curve then moves away from it by a share of the median beat's excursion.

End-systole is the smallest area between two end-diastoles. End-diastole is the last frame before the ventricle
contracts: without atrial systole (atrial fibrillation) the area stands still for half a second before that, and any
frame of the plateau may hold its largest value.

Legend: T frames.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SMOOTH_SECONDS = 0.1
_SHORTEST_BEAT_S, _LONGEST_BEAT_S = 0.33, 1.6
"""180 and 38 beats a minute."""
_LEAST_CORRELATION = 0.6
"""Of the curve's slope with itself a beat later; below it there is no rhythm to take a trend from."""
_LEAST_BEATS = 2.0
"""Length of a clip, in beats, from which its trend is told apart from its beats."""
_FIRST_SHARE, _SHARE = 0.35, 0.4
"""A turning point's least excursion, of the curve's range at first, then of the median excursion."""
_BORDER_SHARE = 0.2
"""The first or last turning point counts if it comes as near to the level of its kind, in shares of the excursion."""
_TILT_PER_S = 0.5
"""Excursions per second by which a later frame of a plateau is preferred. The ventricle empties at three or more."""


class Events(NamedTuple):
    """Frames of end-diastole and end-systole, each ascending."""

    ed_frames: tuple[int, ...]
    es_frames: tuple[int, ...]


def detect_events(area: np.ndarray, *, fps: float) -> Events:
    """Blind detection of all events of a clip; none in a constant curve or one of fewer than 3 frames.

    A clip may begin and end anywhere in a beat: its first and last turning point are events only at the level of the
    others of their kind.

    Args:
        area: float64 (T,), any unit, also any other curve that is largest at ED and smallest at ES.
        fps: frames per second, above 0.
    """
    if len(area) < 3 or area.max() == area.min():
        return Events((), ())
    curve = _without_trend(_smooth(area, half=max(1, round(_SMOOTH_SECONDS * fps / 2))), fps)
    low, high = np.percentile(curve, [5, 95])
    excursion = float(high - low)
    turns = _turning_points(curve, _FIRST_SHARE * excursion)
    if len(turns) > 3:
        excursion = float(np.median(np.abs(np.diff(curve[turns]))))
        turns = _turning_points(curve, _SHARE * excursion)
    if not turns:
        return Events((), ())
    first_ed = 0 if curve[turns[0]] > curve[turns[1]] else 1
    for place in range(first_ed, len(turns), 2):
        turns[place] = _end_of_plateau(curve, turns, place, _TILT_PER_S * excursion / fps)
    # The curve goes on beyond the first and the last turning point only to one side.
    sure = [0 < place < len(turns) - 1 for place in range(len(turns))]
    ed, es = slice(first_ed, None, 2), slice(1 - first_ed, None, 2)
    least = _BORDER_SHARE * excursion
    return Events(_at_level(turns[ed], sure[ed], curve, least), _at_level(turns[es], sure[es], -curve, least))


def _end_of_plateau(curve: np.ndarray, turns: list[int], place: int, tilt: float) -> int:
    """The largest frame between the neighbours of a maximum, of a curve that rises by ``tilt`` a frame more."""
    first = turns[place - 1] if place else 0
    last = turns[place + 1] if place + 1 < len(turns) else len(curve) - 1
    stretch = curve[first : last + 1]
    return first + int(np.argmax(stretch + tilt * np.arange(len(stretch))))


def _smooth(curve: np.ndarray, *, half: int) -> np.ndarray:
    """A triangular window, renormalised at the borders."""
    weights = np.concatenate((np.arange(1, half + 2), np.arange(half, 0, -1))).astype(np.float64)
    inside = np.convolve(np.ones_like(curve), weights, mode="full")[half : half + len(curve)]
    return np.convolve(curve, weights, mode="full")[half : half + len(curve)] / inside


def _without_trend(curve: np.ndarray, fps: float) -> np.ndarray:
    """The curve less its mean over one beat around each frame; beyond its ends it goes on straight."""
    beat = _beat_frames(curve, fps)
    if beat is None or len(curve) < _LEAST_BEATS * beat:
        return curve
    core = np.convolve(curve, np.ones(beat) / beat, mode="valid")
    centre = np.arange(len(core)) + (beat - 1) / 2
    frames = np.arange(len(curve))
    trend = np.interp(frames, centre, core)
    reach = max(1, min(len(core) - 1, beat // 2))
    before, after = frames < centre[0], frames > centre[-1]
    trend[before] += (core[reach] - core[0]) / reach * (frames[before] - centre[0])
    trend[after] += (core[-1] - core[-1 - reach]) / reach * (frames[after] - centre[-1])
    return curve - trend


def _beat_frames(curve: np.ndarray, fps: float) -> int | None:
    """Frames of a beat: the first high peak of the slope's autocorrelation; None if there is none."""
    slope = np.diff(curve)
    slope = slope - slope.mean()
    count = len(slope)
    first, last = max(2, int(_SHORTEST_BEAT_S * fps)), min(int(np.ceil(_LONGEST_BEAT_S * fps)), count * 2 // 3)
    if last <= first + 1 or not slope.any():
        return None
    lags = np.arange(first, last + 1)
    own = np.correlate(slope, slope, "full")[count - 1 :]
    likeness = own[lags] / own[0] / (1 - lags / count)  # fewer products make up a longer lag's sum
    peaks = np.flatnonzero((likeness[1:-1] >= likeness[:-2]) & (likeness[1:-1] >= likeness[2:])) + 1
    if not len(peaks) or likeness[peaks].max() < _LEAST_CORRELATION:
        return None
    return int(lags[peaks[likeness[peaks] >= 0.8 * likeness[peaks].max()][0]])  # later ones are its multiples


def _turning_points(curve: np.ndarray, least: float) -> list[int]:
    """Frames of maxima and minima in turn, neighbours at least ``least`` apart; none, or two and more."""
    turns: list[int] = []
    low = high = 0
    direction = 0
    for t, value in enumerate(curve):
        high = t if value > curve[high] else high
        low = t if value < curve[low] else low
        if direction >= 0 and curve[high] - value > least:
            turns.append(high)
            direction, low = -1, t
        elif direction <= 0 and value - curve[low] > least:
            turns.append(low)
            direction, high = 1, t
    return [*turns, high if direction > 0 else low] if turns else []


def _at_level(found: list[int], sure: list[bool], curve: np.ndarray, least: float) -> tuple[int, ...]:
    """Maxima; those that are not sure only at the level of the others."""
    inner = [curve[frame] for frame, known in zip(found, sure, strict=True) if known]
    level = float(np.median(inner)) if inner else float(curve.max())
    return tuple(frame for frame, known in zip(found, sure, strict=True) if known or curve[frame] >= level - least)
