"""One prediction + one case + a judge -> rows of scores. Pure: torch and numpy, no storage and no cluster.

Legend: B cases, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from echodfkd.core.errors import RunError
from echodfkd.core.records import CaseScore, VideoClip
from echodfkd.evaluation.against_truth import RUNS_THRESHOLD, Measured, against_truth, phases, published, unit_of
from echodfkd.evaluation.judge import judge_mask
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.temporal import temporal_dice
from echodfkd.models.judges.protocol import Judge
from echodfkd.models.students.output import StudentOutput


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
        network: a student whose first class is the LV.
        video: one whole case.
        device: torch device.
    """
    output = run_network(network, video, device)
    return output.mask_logits[0, :, 0].float().sigmoid().cpu().numpy()


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
    judge_controls: bool = False,
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
        judge_controls: also rate masks that cannot be right (`echodfkd.models.judges.controls`).

    Returns:
        Rows of what could be measured: metrics against truth appear only where truth is, and a value
        that is undefined (no beat found in a constant area curve) is NaN.

    Raises:
        RunError: the prediction holds a value that is not finite.
    """
    assert prob.shape == case.video.shape, f"{case.clip_id}: prediction {prob.shape}, video {case.video.shape}"
    check_finite(prob, f"student {student} at step {step}" if student else f"teacher {teacher_id}", case)
    mask = prob > threshold
    rows = [*against_truth(prob, mask, case), *phases(mask, case), *published(prob, case), *further]
    rows.append(Measured("temporal_dice", temporal_dice(mask), max(0, len(mask) - 1), reference=""))
    if teacher_prob is not None:
        agreement = dice(mask, teacher_prob > threshold)
        rows.append(Measured("dice_teacher", float(agreement.mean()), len(agreement), reference="teacher"))
    if judge is not None:
        rows += judge_mask(judge, case, mask, controls=judge_controls)
    return [
        CaseScore(
            clip_id=case.clip_id,
            teacher_id=teacher_id,
            student=student,
            step=step,
            metric=row.metric,
            reference=row.reference,
            unit=unit_of(row.metric),
            threshold=threshold if row.threshold == RUNS_THRESHOLD else row.threshold,
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
