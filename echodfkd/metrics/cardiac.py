"""The cardiac cycle from the area of the left ventricle: end-diastole (ED), end-systole (ES), ejection fraction.

The area is largest at ED and smallest at ES. There are two ways to find them, whose results are not comparable:

* `find_frame_near` and `average_frame_distance` (aFD) are *oracle-assisted*: the reference frame picks
  the beat. This is the published protocol.
* `echodfkd.metrics.blind_events` finds them in the area curve only.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def area_curve(mask: np.ndarray) -> np.ndarray:
    """Pixels inside the mask per frame: float64 (T,) for a bool mask (T, H, W)."""
    assert mask.dtype == bool, f"masks are bool, got {mask.dtype}"
    return mask.sum((-2, -1)).astype(np.float64)


def find_frame_near(area: np.ndarray, reference: int, *, phase: str, at_median: bool = False) -> int | None:
    """The published oracle-assisted search for one ED or ES frame.

    Z-score the curve (sign flipped for ED, so that the frame sought is a minimum), take the runs of frames
    strictly below the median, choose the run whose nearer *edge* is closest to the reference (the earlier
    one on a tie), and return its arg-min. Definition: evaluate_aFD in the authors' published code.

    Args:
        area: float64 (T,).
        reference: the reference frame's number.
        phase: "ed" or "es".
        at_median: if no frame lies below the median, take the runs of frames at it, as the published code does. Its
            answer then says nothing about the curve: frame 0 for a constant one.

    Returns:
        A frame number; without ``at_median`` None if no frame lies below the median (a constant curve, a mask that is
        empty in most frames).
    """
    assert phase in ("ed", "es"), phase
    score = (area - area.mean()) / (area.std() or 1.0) * (1.0 if phase == "es" else -1.0)
    median = np.median(score)
    runs = _runs(score < median)
    if not runs and at_median:
        runs = _runs(score <= median)
    if not runs:
        return None
    first, last = min(runs, key=lambda run: min(abs(run[0] - reference), abs(run[1] - reference)))
    return first + int(np.argmin(score[first : last + 1]))


def average_frame_distance(
    area: np.ndarray, references: Sequence[int], *, phase: str, at_median: bool = False
) -> float:
    """AFD: mean distance in frames between each reference and `find_frame_near`'s answer to it.

    NaN if there is no reference, or no answer (a constant area curve).
    """
    found = [find_frame_near(area, reference, phase=phase, at_median=at_median) for reference in references]
    distances = [abs(frame - ref) for frame, ref in zip(found, references, strict=True) if frame is not None]
    return float(np.mean(distances)) if distances else float("nan")


def detection_error(detected: Sequence[int], references: Sequence[int]) -> float:
    """Mean over the references of the distance in frames to the nearest detection; NaN if either is empty."""
    if not len(detected) or not len(references):
        return float("nan")
    found, wanted = np.asarray(detected), np.asarray(references)
    return float(np.abs(found[None, :] - wanted[:, None]).min(axis=1).mean())


def ejection_fraction(size: np.ndarray, ed_frames: Sequence[int], es_frames: Sequence[int]) -> float:
    """Ejection fraction in percent: 100 * (S_ED - S_ES) / S_ED, S being the mean size over the given frames.

    With areas in place of volumes this is the naive EF of the published evaluation. It correlates with the clinical
    EF and is smaller: a ventricle loses a larger share of its volume than of its section's area.

    Args:
        size: float64 (T,), volumes (`echodfkd.metrics.volume`) or areas (`area_curve`) in any unit.
        ed_frames: frames at end-diastole.
        es_frames: frames at end-systole.

    Returns:
        NaN if a phase has no frame or S_ED is 0.
    """
    if not len(ed_frames) or not len(es_frames):
        return float("nan")
    diastolic, systolic = size[list(ed_frames)].mean(), size[list(es_frames)].mean()
    return float(100.0 * (diastolic - systolic) / diastolic) if diastolic > 0 else float("nan")


def pearson_r(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation over the last axis, float64 (...); NaN for fewer than two pairs or a constant vector."""
    if x.shape[-1] < 2:
        return np.full(x.shape[:-1], np.nan)
    dx, dy = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    scale = np.sqrt((dx * dx).sum(-1) * (dy * dy).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (dx * dy).sum(-1) / scale, np.nan)


def mean_absolute_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Mean of |x - y| over the last axis, float64 (...); NaN if there is no pair."""
    return np.abs(x - y).mean(-1) if x.shape[-1] else np.full(x.shape[:-1], np.nan)


def _runs(below: np.ndarray) -> list[tuple[int, int]]:
    """First and last frame of each run of True in a bool vector."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], below, [False])).astype(np.int8)))
    return [(int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
