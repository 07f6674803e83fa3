"""Beats of a segmented video: end-diastole and end-systole found blind, heart rate, ejection fraction.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from echodfkd.metrics.blind_events import detect_events
from echodfkd.metrics.cardiac import area_curve
from echodfkd.metrics.spacing import Spacing
from echodfkd.metrics.volume import area_length_volume

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Beat:
    """One beat: from an end-diastole to the end-systole that follows it.

    ``edv`` and ``esv`` are area-length volumes, in mL if the sides of a pixel are known, else in cubic pixels.
    ``ef_percent`` is NaN if the volume grows, or if no ventricle is seen at end-systole: no heart empties itself.
    """

    ed_frame: int
    es_frame: int
    edv: float
    esv: float

    @property
    def ef_percent(self) -> float:
        """Ejection fraction, 0..100; NaN if there is none."""
        return 100.0 * (1.0 - self.esv / self.edv) if 0.0 < self.esv <= self.edv else math.nan


@dataclass(frozen=True)
class Rhythm:
    """ED and ES frames of a video, its beats, and its heart rate in beats a minute (NaN for fewer than two beats)."""

    ed_frames: tuple[int, ...]
    es_frames: tuple[int, ...]
    beats: tuple[Beat, ...]
    heart_rate_bpm: float

    @property
    def ef_percent(self) -> float:
        """Median over the beats whose EF is defined; NaN if there is none."""
        known = [beat.ef_percent for beat in self.beats if math.isfinite(beat.ef_percent)]
        return float(np.median(known)) if known else math.nan


def find_rhythm(mask_THW: np.ndarray, *, fps: float, sides: Spacing, in_mm: bool) -> Rhythm:
    """The rhythm in the masks of a left ventricle. No event is known beforehand (`echodfkd.metrics.blind_events`).

    Args:
        mask_THW: bool.
        fps: frames per second; 0 if unknown, which gives no events.
        sides: of a pixel.
        in_mm: whether they are in millimetres: volumes are then in mL.
    """
    area = area_curve(mask_THW)
    if fps <= 0:
        return Rhythm((), (), (), math.nan)
    ed_frames, es_frames = detect_events(area, fps=fps)
    volume = area_length_volume(mask_THW, spacing=sides) / (MM3_PER_ML if in_mm else 1.0)
    beats = []
    for ed, following in pairwise([*ed_frames, len(area)]):
        inside = [es for es in es_frames if ed < es < following]
        if inside:
            es = min(inside, key=lambda frame: float(area[frame]))
            beats.append(Beat(ed, es, float(volume[ed]), float(volume[es])))
    return Rhythm(ed_frames, es_frames, tuple(beats), _rate(ed_frames, es_frames, fps))


def _rate(ed_frames: tuple[int, ...], es_frames: tuple[int, ...], fps: float) -> float:
    """Of the kind of event that was found more often: the median interval, which a missed beat does not move."""
    events = max(ed_frames, es_frames, key=len)
    return 60.0 * fps / float(np.median(np.diff(events))) if len(events) > 1 else math.nan
