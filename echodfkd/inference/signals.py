"""Numbers of a clip and its masks that tell clips which a student knows from others. None needs a second pass.

Legend: T frames of the video, t those at the student's rate, s the student's side.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from echodfkd.metrics.overlap import dice
from echodfkd.metrics.plausibility import stray_share

_LIT = 12.0
"""Grey level of a pixel that is lit: above the black around a sector."""
_LAG_S, _LAG_FRAMES = 0.25, 8
"""Time in which a heart moves clearly, and the same in frames if a video has no rate."""
_CORNER = 0.2
"""Share of the lit region's width and height that a corner takes."""


def picture_signals(video_Tss: np.ndarray, *, fps: float) -> dict[str, float]:
    """Numbers of the video itself: uint8 frames of the student's size, at their own rate. NaN if there is none.

    Returns:
        ``black``: share of pixels that are ever lit. ``sector``: share of the upper corners of the lit region that is
        lit; a sector has its tip between them. ``still``: root mean square change of a lit pixel in a quarter of a
        second, in grey levels. ``order``: mean square difference of neighbouring frames over that of frames a quarter
        of a second apart; about 1 in frames without an order.
    """
    lit = video_Tss.max(0) > _LIT
    near, far = _changes(video_Tss, fps)
    return {
        "black": float(lit.mean()),
        "sector": _lit_corners(lit),
        "still": math.sqrt(far / lit.mean()) if lit.any() else 0.0,
        "order": near / far if far > 0.0 else math.nan,
    }


def mask_signals(prob_tss: np.ndarray) -> dict[str, float]:
    """Numbers of the ventricle's probabilities, at the student's size and rate. NaN if there is none.

    Returns:
        ``unsure``: mean probability of the pixels in the mask. ``jumps``: 1 - mean Dice of neighbouring masks.
        ``parts``: share of the mask outside its largest part over the clip. ``small`` and ``large``: median share of
        the frame that the mask takes.
    """
    mask = prob_tss > 0.5
    share = float(np.median(mask.mean((1, 2))))
    return {
        "unsure": float(prob_tss[mask].mean()) if mask.any() else math.nan,
        "jumps": 1.0 - float(dice(mask[1:], mask[:-1]).mean()) if len(mask) > 1 else math.nan,
        "parts": stray_share(mask),
        "small": share,
        "large": share,
    }


def _changes(video_Tss: np.ndarray, fps: float) -> tuple[float, float]:
    """Mean square difference of neighbouring frames, and of frames a quarter of a second apart; NaN in short clips.

    Means of 2 x 2 pixels have less noise.
    """
    T, half = len(video_Tss), video_Tss.shape[1] // 2
    lag = min(round(_LAG_S * fps) if fps else _LAG_FRAMES, T // 2)
    if lag < 2:
        return math.nan, math.nan
    cut = video_Tss[:, : 2 * half, : 2 * half].reshape(T, half, 2, half, 2)
    frames = cut.mean((2, 4), dtype=np.float32)
    near, far = (float(np.square(frames[step:] - frames[:-step]).mean()) for step in (1, lag))
    return near, far


def _lit_corners(lit: np.ndarray) -> float:
    """Share of the upper corners of the largest lit region's box that belongs to the region; NaN without a region.

    Lines and letters are thinner than the opening (3 pixels).
    """
    parts, count = ndimage.label(ndimage.binary_opening(np.pad(lit, 2, mode="edge"))[2:-2, 2:-2])
    if not count:
        return math.nan
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    region = parts[ndimage.find_objects(parts)[largest - 1]] == largest
    height, width = (max(1, round(_CORNER * side)) for side in region.shape)
    return float(np.concatenate([region[:height, :width], region[:height, -width:]]).mean())
