"""Output of an auxiliary judge for a case: scores of a mask with their controls, and readings of the video.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Protocol, runtime_checkable

import numpy as np

from echodfkd.config.sections.evaluation import EvaluationConfig
from echodfkd.core.records import JUDGE_STEP, TRUTH_UNKNOWN, CaseScore, VideoClip
from echodfkd.evaluation.against_truth import LV, MetricValue
from echodfkd.metrics import cardiac
from echodfkd.metrics.blind_events import detect_events
from echodfkd.models.judges.build import load_judge
from echodfkd.models.judges.controls import control_scores
from echodfkd.models.judges.protocol import Judge
from echodfkd.models.judges.reading import VideoReading


def configured_judge(evaluation: EvaluationConfig, device: str = "cpu") -> Judge | None:
    """The auxiliary judge that the config names. Raises `InputError` naming evaluation.judge."""
    return load_judge(
        evaluation.judge,
        weights=evaluation.judge_weights,
        device=device,
        prompts=asdict(evaluation.judge_prompts),
        phase_sign=evaluation.judge_phase_sign,
        precision=evaluation.judge_precision,
        captions=evaluation.judge_captions,
    )


@runtime_checkable
class VideoReader(Protocol):
    """A judge that also reads videos without any mask."""

    judge_id: str

    def read_video(self, video: np.ndarray) -> VideoReading:
        """Cycle and ejection fraction of a uint8 video (T, H, W)."""
        ...


def judge_mask(judge: Judge, case: VideoClip, mask: np.ndarray, *, controls: bool) -> list[MetricValue]:
    """The judge's scores of a mask, bool (T, H, W), and with ``controls`` those of masks that cannot be right."""
    verdict = judge.score(case.video, mask)
    if controls:
        verdict = {**verdict, **control_scores(judge, case.video, mask, name=case.clip_id)}
    return [MetricValue(name, float(value), len(mask), judge.judge_id) for name, value in verdict.items()]


def read_case(judge: Judge | None, case: VideoClip, *, teacher_id: str) -> list[CaseScore]:
    """The judge's readings of the case: of its video without a mask, unless it only scores masks, and of the truth.

    * ``judge_truth_score``, ``judge_truth_motion``: ``judge_score`` and ``judge_motion`` of the truth's mask, if every
      frame has one: the scores of models are to be held against these.
    * ``judge_ef``: its ejection fraction in percent.
    * ``judge_phase_ed_error_frames``, ``judge_phase_es_error_frames``: frames from ED (ES) to the nearest that
      `echodfkd.metrics.blind_events` finds in its cycle.
    * ``judge_phase_gap``: its cycle at ED less at ES, in standard deviations of the cycle. Below 0 on most cases,
      ``evaluation.judge_phase_sign`` is the wrong one.

    A judge of clips has the first one only.
    """
    if judge is None:
        return []
    rows = _of_truth(judge, case)
    if isinstance(judge, VideoReader):
        reading = judge.read_video(case.video)
        rows.append(MetricValue("judge_ef", reading.ef_percent, len(case.video), judge.judge_id, None))
        if reading.cycle is not None:
            rows += _phases(reading.cycle, case, judge.judge_id)
    return [row.score(case.clip_id, teacher_id=teacher_id, student="", step=JUDGE_STEP) for row in rows]


def _of_truth(judge: Judge, case: VideoClip) -> list[MetricValue]:
    """``judge_truth_*``, see `read_case`."""
    labels = case.truth_labels
    if labels is None or not (labels != TRUTH_UNKNOWN).any((1, 2)).all():
        return []
    verdict = judge.score(case.video, labels == LV)
    return [
        MetricValue(f"judge_truth_{name}", float(verdict[f"judge_{name}"]), len(labels), judge.judge_id, None)
        for name in ("score", "motion")
        if f"judge_{name}" in verdict
    ]


def _phases(cycle: np.ndarray, case: VideoClip, judge_id: str) -> list[MetricValue]:
    """``judge_phase_*``, see `read_case`."""
    ed, es = list(case.ed_frames or ()), list(case.es_frames or ())
    rows = []
    for phase, frames, found in zip(("ed", "es"), (ed, es), detect_events(cycle, fps=case.fps), strict=True):
        if frames:
            error = cardiac.detection_error(found, frames)
            rows.append(MetricValue(f"judge_phase_{phase}_error_frames", error, len(frames), judge_id, None))
    if ed and es:
        gap = float(cycle[ed].mean() - cycle[es].mean())
        rows.append(MetricValue("judge_phase_gap", gap, len(ed) + len(es), judge_id, None))
    return rows
