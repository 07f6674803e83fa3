"""Plausibility of masks on the real cines that pydicom's packages hold. No truth is known of them.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from echodfkd.inference.beats import Rhythm, find_rhythm
from echodfkd.metrics.plausibility import stray_share
from echodfkd.sources.video.cine import Cine
from echodfkd.sources.video.windows import resize_video
from tests.benchmarks.side_by_side import Predict


@dataclass(frozen=True)
class CineScore:
    """Stray share, number of parts over space and time, and the rhythm in the area curve."""

    crop: str
    stray: float
    parts: int
    rhythm: Rhythm

    @property
    def in_order(self) -> bool:
        """Whether end-diastole and end-systole take turns."""
        events = sorted([(frame, "ED") for frame in self.rhythm.ed_frames] + [(f, "ES") for f in self.rhythm.es_frames])
        return all(a[1] != b[1] and a[0] < b[0] for a, b in itertools.pairwise(events))

    def __str__(self) -> str:
        return (
            f"{self.crop:<7} stray {100 * self.stray:5.2f} %  parts {self.parts:3}  ED {len(self.rhythm.ed_frames)}"
            f"  ES {len(self.rhythm.es_frames)}  {self.rhythm.heart_rate_bpm:5.1f} a minute"
            f"  {'in order' if self.in_order else 'not in order'}"
        )


def crops(video_THW: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A landscape video as squares: whole with black above and below, its middle, and 90 % of that below the probe."""
    _, H, W = video_THW.shape
    side = (W - H) // 2
    yield "whole", np.pad(video_THW, ((0, 0), (side, W - H - side), (0, 0)))
    yield "middle", video_THW[:, :, side : side + H]
    rows, columns = slice(round(0.08 * H), round(0.98 * H)), slice(round(W / 2 - 0.45 * H), round(W / 2 + 0.45 * H))
    yield "tight", video_THW[:, rows, columns]


def score_crop(predict: Predict, name: str, video_THW: np.ndarray, *, fps: float, side: int) -> CineScore:
    """One crop, resized to this side first: masks are counted there."""
    mask = predict(resize_video(video_THW, side), 0, fps)
    return CineScore(
        name, stray_share(mask), ndimage.label(mask)[1], find_rhythm(mask, fps=fps, sides=1.0, in_mm=False)
    )


def score_cine(predict: Predict, cine: Cine, *, side: int) -> list[CineScore]:
    """All crops of a cine."""
    return [score_crop(predict, name, video, fps=cine.fps, side=side) for name, video in crops(cine.video)]
