"""Cardiac phase of every frame and ejection fraction, from soft masks of the left ventricle.

They let a student learn both from a teacher that only segments. They are taken only from clips that hold a whole beat:
the largest area of a shorter window may not be end-diastole (ED), and a student cannot learn from a guess.

Legend: N clips, T frames, H rows, W columns.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from echodfkd.metrics.blind_events import detect_events
from echodfkd.metrics.spacing import Spacing, pixel_sides

MIN_EXCURSION = 0.1
"""Least share of the ED area that must be gone at end-systole (ES). The embedded teachers' areas are off by 2 %
from frame to frame (docs/how-to/heads.md): below a tenth, noise would make up a fifth of the phase or more."""


def beat_targets(prob_NTHW: np.ndarray, *, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """Phase and ejection fraction of clips.

    Args:
        prob_NTHW: probability of the left ventricle, 0..1.
        fps: frames per second.

    Returns:
        Phase float32 (N, T): the area between its smallest (0, ES) and largest (1, ED) in the clip; and ejection
        fraction float32 (N,), 0..1, by `area_length_ef`. NaN if `find_beat` finds none.
    """
    phase = np.full(prob_NTHW.shape[:2], np.nan, np.float32)
    ef = np.full(len(prob_NTHW), np.nan, np.float32)
    for row, prob in enumerate(prob_NTHW):
        area = prob.sum((1, 2), dtype=np.float64)
        beat = find_beat(area, fps=fps)
        if beat is not None:
            phase[row] = (area - area.min()) / (area.max() - area.min())
            ef[row] = area_length_ef(area, long_axis(prob), *beat)
    return phase, ef


def find_beat(area: np.ndarray, *, fps: float) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """ED and ES frames of a clip that holds a whole beat: ED, ES, ED or ES, ED, ES.

    They come from `echodfkd.metrics.blind_events`. None if one kind never lies between two of the
    other, or the area shrinks by less than `MIN_EXCURSION`. ``area`` is float64 (T,).
    """
    ed_frames, es_frames = detect_events(area, fps=fps)
    if not (_lies_between(es_frames, ed_frames) or _lies_between(ed_frames, es_frames)):
        return None
    largest, smallest = area[list(ed_frames)].mean(), area[list(es_frames)].mean()
    return (ed_frames, es_frames) if largest - smallest >= MIN_EXCURSION * largest else None


def long_axis(prob_THW: np.ndarray, *, spacing: Spacing = 1.0) -> np.ndarray:
    """Relative length of the mask's long axis, float64 (T,), in the spacing's unit; NaN if the mask is empty.

    The root of the larger eigenvalue of the second moments. It is proportional to the length for shapes that differ
    only in size and aspect (a fourth of an ellipse's long axis), which suffices for a ratio of volumes.
    """
    down, across = pixel_sides(spacing)
    y, x = np.mgrid[: prob_THW.shape[1], : prob_THW.shape[2]].astype(np.float64)
    y, x = y * down, x * across
    weight = prob_THW.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight / weight.sum((1, 2), keepdims=True)
        dy = y - (share * y).sum((1, 2))[:, None, None]
        dx = x - (share * x).sum((1, 2))[:, None, None]
        yy, xx, xy = ((share * product).sum((1, 2)) for product in (dy * dy, dx * dx, dx * dy))
    return np.sqrt((yy + xx) / 2 + np.sqrt(((yy - xx) / 2) ** 2 + xy**2))


def area_length_ef(
    area: np.ndarray, length: np.ndarray, ed_frames: tuple[int, ...], es_frames: tuple[int, ...]
) -> float:
    """Single-plane area-length ejection fraction, 0..1: 1 - V_ES / V_ED with V = 8 A^2 / (3 pi L) (Lang et al. 2015).

    Volumes are means over the given frames; the constant cancels, so that any multiple of A and L will do. NaN if
    the result lies outside 0..1.
    """
    volume = np.square(area) / length
    ef = 1.0 - volume[list(es_frames)].mean() / volume[list(ed_frames)].mean()
    return float(ef) if 0.0 <= ef <= 1.0 else float("nan")


def _lies_between(inner: tuple[int, ...], outer: tuple[int, ...]) -> bool:
    return any(first < frame < last for first, last in pairwise(outer) for frame in inner)
