"""Zero-shot readings of a vision-language judge from a video: the valve's cycle and the ejection fraction.

Legend: T frames, N prompts, V numbers that a prompt can hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from echodfkd.config.sections.judge import EF_PLACE
from echodfkd.metrics.cardiac import area_curve, pearson_r
from echodfkd.models.judges.protocol import CHUNK_FRAMES, MaskJudge, TwoTowers

EF_VALUES = tuple(range(101))
"""Percents in the prompts on the ejection fraction."""
TOP_SHARE = 0.2
"""Share of the best ranked candidates whose median is the answer."""


@dataclass(frozen=True)
class VideoReading:
    """``cycle``: float64 (T,), large at end-diastole like an area; ``ef_percent``: 0..100; ``pulse``: float64 (T,), a
    curve like the ventricle's area, from the captions of the phase if the judge knows some, else ``cycle``. A judge of
    clips, and not of single frames, has neither curve.
    """

    cycle: np.ndarray | None
    ef_percent: float
    pulse: np.ndarray | None


def valve_cycle(closed_T: np.ndarray, open_T: np.ndarray, *, sign: int) -> np.ndarray:
    """A curve like the ventricle's area from similarities to "closed" and "open", float64 (T,).

    While the mitral valve is closed the ventricle empties, so that its volume follows the running sum of open less
    closed: ``sign`` -1 of the authors' sum of closed less open. In the one example that they publish their sum runs
    *with* the area, against this reasoning (``sign`` 1): check it on annotated cases (``judge_phase_gap``) before
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


def fill_prompts(
    templates: Sequence[str], place: str, values: Sequence[float] = EF_VALUES
) -> tuple[list[str], np.ndarray]:
    """Every template with every number: captions (N,), and the numbers in them, float64 (N,)."""
    captions = [text.replace(place, f"{value:g}") for text in templates for value in values]
    return captions, np.array([value for _ in templates for value in values], np.float64)


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


def motion_score(area_T: np.ndarray, pulse_T: np.ndarray) -> float:
    """Pearson's r of a mask's area with the judge's pulse: 1 if the mask beats with the video, 0 if it stands still."""
    r = float(pearson_r(area_T, pulse_T))
    return 0.0 if math.isnan(r) else r


class ReadingJudge(MaskJudge):
    """Scores masks, and reads the valve's cycle and the ejection fraction from the video.

    Towers that have ``sees_clips`` give all frames of a clip one embedding, which says nothing about a frame's phase.

    Its score looks at single frames, and so a mask that never moves scores like one that does. ``judge_motion`` sees
    time (`motion_score`).

    Args:
        towers: the model. All prompts are embedded here, once.
        judge_id: name and a hash of the weights.
        prompts: the fields of `echodfkd.config.sections.judge.JudgePromptsConfig`.
        phase_sign: see `valve_cycle`.
        phases: captions of end-diastole and end-systole that the towers know, for the pulse.
    """

    def __init__(
        self,
        towers: TwoTowers,
        *,
        judge_id: str,
        prompts: Mapping[str, Any],
        phase_sign: int,
        phases: tuple[str, str] | None = None,
    ) -> None:
        of_masks = (prompts["wall"], prompts["nothing"], prompts["left_ventricle"])
        super().__init__(towers, judge_id=judge_id, prompts=of_masks)
        self._phase_sign = phase_sign
        captions, self._ef_values = fill_prompts(prompts["ef"], EF_PLACE)
        with torch.inference_mode():
            valve = [prompts["valve_closed"], prompts["valve_open"]]
            self._readings = towers.embed_captions([*valve, *captions, *(phases or ())])
        self._knows_phases = phases is not None
        self._last: tuple[np.ndarray, VideoReading] | None = None

    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        """As `MaskJudge.score`, and ``judge_motion`` (`motion_score`), -1 .. 1, unless the towers see clips."""
        scores, pulse = super().score(video, lv_mask), self.read_video(video).pulse
        if pulse is None:
            return scores
        return {**scores, "judge_motion": motion_score(area_curve(lv_mask), pulse)}

    @torch.inference_mode()
    def read_video(self, video: np.ndarray) -> VideoReading:
        """Cycle, pulse and ejection fraction of a uint8 video (T, H, W), with nothing blacked out.

        The last one is kept: all models' masks of a case are scored on one array.
        """
        if self._last is not None and self._last[0] is video:
            return self._last[1]
        similarity = caption_similarity(self._towers, video, self._readings)
        percents = similarity[:, 2 : 2 + len(self._ef_values)]
        cycle = pulse = None
        if not getattr(self._towers, "sees_clips", False):
            cycle = pulse = valve_cycle(similarity[:, 0], similarity[:, 1], sign=self._phase_sign)
        if self._knows_phases:
            pulse = similarity[:, -2] - similarity[:, -1]
        self._last = video, VideoReading(cycle, zero_shot_value(percents, self._ef_values), pulse)
        return self._last[1]


def caption_similarity(towers: TwoTowers, video: np.ndarray, captions_NE: torch.Tensor) -> np.ndarray:
    """Cosine of every frame of a uint8 video (T, H, W) with every embedded caption, float64 (T, N)."""
    frames = torch.from_numpy(np.ascontiguousarray(video))
    parts = [towers.embed_frames(chunk) @ captions_NE.T for chunk in frames.split(CHUNK_FRAMES)]
    return torch.cat(parts).double().cpu().numpy()
