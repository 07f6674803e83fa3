"""What a vision-language judge reads from a video alone: the valve's cycle and the ejection fraction, zero-shot.

Legend: T frames, N prompts, V numbers that a prompt can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EF_VALUES = tuple(range(101))
"""Percents that the prompts on the ejection fraction are read with."""
TOP_SHARE = 0.2
"""Share of the best ranked candidates whose median is the answer."""


@dataclass(frozen=True)
class VideoReading:
    """``cycle``: float64 (T,), large at end-diastole like an area; ``ef_percent``: 0..100."""

    cycle: np.ndarray
    ef_percent: float


def valve_cycle(closed_T: np.ndarray, open_T: np.ndarray, *, sign: int) -> np.ndarray:
    """A curve like the ventricle's area from similarities to "closed" and "open", float64 (T,).

    While the mitral valve is closed the ventricle empties, so that its volume follows the running sum of open less
    closed: ``sign`` -1 of the authors' sum of closed less open. In the one example that they publish their sum runs
    *with* the area, against this reasoning (``sign`` 1): check it on annotated cases (``judge_phase_pearson``) before
    the detections are used. Unlike theirs, the sum is that of the differences less their mean: a judge that prefers
    one of the two captions in every frame would otherwise add a slope. Then z-scored; zeros for a constant signal.

    Args:
        closed_T: cosine of every frame with the caption of a closed valve.
        open_T: likewise of an open valve.
        sign: -1 or 1.
    """
    difference = np.asarray(closed_T, np.float64) - np.asarray(open_T, np.float64)
    total = np.cumsum(difference - difference.mean())
    spread = total.std()
    return sign * (total - total.mean()) / spread if spread > 1e-12 else np.zeros_like(total)


def fill_prompts(templates: Sequence[str], place: str) -> tuple[list[str], np.ndarray]:
    """Every template with every number of `EF_VALUES`: captions (N,), and the numbers in them, float64 (N,)."""
    captions = [text.replace(place, str(value)) for text in templates for value in EF_VALUES]
    return captions, np.array([value for _ in templates for value in EF_VALUES], np.float64)


def zero_shot_value(similarity_TN: np.ndarray, values_N: np.ndarray) -> float:
    """The number that frames agree on, as EchoCLIP's authors read it (`utils.py` of their repository).

    In each frame the candidates' numbers are put into the order of their similarity; the lists are averaged over the
    frames, place by place; the answer is the (lower) median of the first fifth of that list.

    Args:
        similarity_TN: cosine of every frame with every candidate caption.
        values_N: the number in each caption.
    """
    order = np.argsort(-similarity_TN, axis=1, kind="stable")
    ranked = values_N[order].mean(axis=0)
    top = np.sort(ranked[: max(1, int(len(ranked) * TOP_SHARE))])
    return float(top[(len(top) - 1) // 2])
