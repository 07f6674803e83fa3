"""One prediction + one case + a judge -> rows of scores. Pure: torch and numpy, no storage and no cluster.

Legend: B cases, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from echodfkd.errors import RunError
from echodfkd.metrics import cardiac
from echodfkd.metrics.overlap import dice, iou
from echodfkd.metrics.temporal import area_jitter, temporal_dice
from echodfkd.models.heads import StudentOutput
from echodfkd.records import TRUTH_UNKNOWN, CaseScore, VideoClip

LV = 1
"""Value of the left ventricle in truth label maps (`records.CLASS_NAMES`)."""

UNITS = {
    "afd_ed": "frames",
    "afd_es": "frames",
    "ed_error_frames": "frames",
    "es_error_frames": "frames",
    "ef_area": "percent",
    "phase_ed_error_frames": "frames",
    "phase_es_error_frames": "frames",
    "ef_head_abs_error": "percent",
}
"""Unit of each metric that has one; the others are pure numbers."""


class Judge(Protocol):
    """A model that rates a segmentation without truth."""

    judge_id: str

    def score(self, video: np.ndarray, lv_mask: np.ndarray) -> dict[str, float]:
        """Scores by name, for uint8 video (T, H, W) and bool mask (T, H, W)."""
        ...


@dataclass(frozen=True)
class Measured:
    """One value before it becomes a `CaseScore`: ``n`` frames lie behind it."""

    metric: str
    value: float
    n: int
    reference: str = "truth"


@torch.inference_mode()
def run_network(network: nn.Module, video: np.ndarray, device: str | torch.device) -> StudentOutput:
    """A student's output for one uint8 video (T, H, W), as a batch of one.

    The network is moved to ``device`` and run in evaluation mode, and left in the mode it came in.
    """
    was_training = network.training
    network.to(device).eval()
    try:
        return network(torch.from_numpy(np.ascontiguousarray(video)).unsqueeze(0).to(device))
    finally:
        network.train(was_training)


def predict_student(network: nn.Module, video: np.ndarray, device: str | torch.device) -> np.ndarray:
    """Probability of LV, float32 (T, H, W), for one uint8 video (T, H, W).

    Args:
        network: maps uint8 (B, T, H, W) to logits (B, T, H, W); see `run_network`. One with heads is run by
            `scoring_heads.predict_with_heads`.
        video: one whole case.
        device: torch device.
    """
    logits = run_network(network, video, device)
    assert isinstance(logits, torch.Tensor), "a student with heads gives more than logits"
    return logits.float().sigmoid()[0].cpu().numpy()


def score_case(
    prob: np.ndarray,
    case: VideoClip,
    *,
    threshold: float,
    judge: Judge | None,
    teacher_id: str,
    student: str,
    step: int,
    teacher_prob: np.ndarray | None = None,
    further: Sequence[Measured] = (),
) -> list[CaseScore]:
    """All scores of one prediction.

    Args:
        prob: float (T, H, W), probability of LV.
        case: the case, with whatever truth it has.
        threshold: a pixel is LV where its probability is above this (teacher and student alike).
        judge: rates the mask without truth; None gives no ``judge_*`` rows.
        teacher_id: of the run's teacher.
        student: the student's name; "" where ``prob`` is the teacher's own.
        step: the student's step; -1 for the teacher.
        teacher_prob: the teacher's prediction of the same case; None gives no ``dice_teacher`` row.
        further: what was measured of the student's other heads (`scoring_heads.score_heads`).

    Returns:
        Rows of what could be measured: metrics against truth appear only where truth is, and a value
        that is undefined (no beat found in a constant area curve) is NaN.

    Raises:
        RunError: the prediction holds a value that is not finite.
    """
    assert prob.shape == case.video.shape, f"{case.clip_id}: prediction {prob.shape}, video {case.video.shape}"
    check_finite(prob, f"student {student} at step {step}" if student else f"teacher {teacher_id}", case)
    mask = prob > threshold
    rows = [*_against_truth(mask, case), *_phases(mask, case), *further]
    rows.append(Measured("temporal_dice", temporal_dice(mask), max(0, len(mask) - 1), reference=""))
    if teacher_prob is not None:
        agreement = dice(mask, teacher_prob > threshold)
        rows.append(Measured("dice_teacher", float(agreement.mean()), len(agreement), reference="teacher"))
    if judge is not None:
        verdict = judge.score(case.video, mask)
        rows += [Measured(name, float(value), len(mask), judge.judge_id) for name, value in verdict.items()]
    return [
        CaseScore(
            clip_id=case.clip_id,
            teacher_id=teacher_id,
            student=student,
            step=step,
            metric=row.metric,
            reference=row.reference,
            unit=UNITS.get(row.metric, ""),
            threshold=threshold,
            value=row.value,
            n=row.n,
        )
        for row in rows
    ]


def check_finite(prob: np.ndarray, who: str, case: VideoClip) -> None:
    """Raise `RunError` where a prediction (T, H, W) holds a value that is not finite."""
    if not np.isfinite(prob).all():
        bad = int((~np.isfinite(prob)).any(axis=(1, 2)).sum())
        raise RunError(
            f"{who} predicts values that are not finite in {bad} of {len(prob)} frames of case {case.clip_id};"
            " its weights are broken, look at the training loss before this step"
        )


def _against_truth(mask: np.ndarray, case: VideoClip) -> list[Measured]:
    """Overlap with the annotated frames. Pixels of unknown truth count in neither mask."""
    if case.truth_labels is None:
        return []
    known = case.truth_labels != TRUTH_UNKNOWN
    annotated = known.any(axis=(1, 2))
    truth = case.truth_labels == LV
    groups = {
        "dice_all": range(len(mask)),
        "dice_ed": case.ed_frames or (),
        "dice_es": case.es_frames or (),
    }
    rows = []
    for metric, frames in groups.items():
        chosen = [t for t in frames if annotated[t]]
        if not chosen:
            continue
        predicted, wanted = mask[chosen] & known[chosen], truth[chosen]
        rows.append(Measured(metric, float(dice(predicted, wanted).mean()), len(chosen)))
        if metric == "dice_all":
            rows.append(Measured("iou_all", float(iou(predicted, wanted).mean()), len(chosen)))
    if annotated.all():
        rows.append(Measured("area_jitter", area_jitter(mask & known, truth), max(0, len(mask) - 2)))
    return rows


def _phases(mask: np.ndarray, case: VideoClip) -> list[Measured]:
    """What the area curve says about ED, ES and EF, where the case knows its ED and ES frames."""
    area = cardiac.area_curve(mask)
    ed_frames, es_frames = case.ed_frames or (), case.es_frames or ()
    detected: dict[str, Sequence[int]] = {
        "ed": cardiac.detect_ed_frames(area, fps=case.fps),
        "es": cardiac.detect_es_frames(area, fps=case.fps),
    }
    rows = []
    for phase, frames in (("ed", ed_frames), ("es", es_frames)):
        if frames:
            distance = cardiac.average_frame_distance(area, frames, phase=phase)
            error = cardiac.detection_error(detected[phase], frames)
            rows.append(Measured(f"afd_{phase}", distance, len(frames)))
            rows.append(Measured(f"{phase}_error_frames", error, len(frames)))
    if ed_frames and es_frames:
        ef = cardiac.area_ef_percent(area, ed_frames, es_frames)
        rows.append(Measured("ef_area", ef, len(ed_frames) + len(es_frames)))
    return rows
