"""One prediction of one case -> rows of scores. Pure: torch and numpy, no storage and no cluster.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from echodfkd.core.records import CaseScore, VideoClip
from echodfkd.evaluation.against_truth import MetricValue, against_truth, phases, published
from echodfkd.evaluation.heads import score_heads
from echodfkd.evaluation.judge import judge_mask
from echodfkd.evaluation.predictions import Prediction, check_prediction
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.plausibility import stray_share
from echodfkd.metrics.temporal import temporal_dice
from echodfkd.models.judges.protocol import Judge


@dataclass(frozen=True)
class ScoringRules:
    """How the cases of a run are scored.

    Attributes:
        teacher_id: of the run's teacher.
        threshold: a pixel belongs to a class if its probability is above this, for teacher and students alike.
        judge: rates masks without truth; None gives no ``judge_*`` rows.
        judge_controls: also rate masks that are wrong on purpose (`echodfkd.models.judges.controls`).
    """

    teacher_id: str
    threshold: float = 0.5
    judge: Judge | None = None
    judge_controls: bool = False


def score_case(
    prediction: Prediction,
    case: VideoClip,
    rules: ScoringRules,
    *,
    student: str = "",
    step: int = -1,
    teacher: Prediction | None = None,
    further: Iterable[MetricValue] = (),
) -> list[CaseScore]:
    """All scores of one prediction.

    Args:
        prediction: masks (T, H, W) of the case's size, and any further outputs.
        case: with any truth it has.
        rules: of the run.
        student: the student's name; "" if the prediction is the teacher's.
        step: the student's step; -1 for the teacher.
        teacher: the teacher's prediction of the same case; None gives no ``dice_teacher`` rows.
        further: values to add, measured elsewhere.

    Returns:
        Metrics against truth appear only if the case has truth; an undefined value (no beat found in a constant area
        curve) is NaN.

    Raises:
        RunError: a mask holds a value that is not finite.
    """
    prob, threshold = prediction.lv_prob, rules.threshold
    assert prob.shape == case.video.shape, f"{case.clip_id}: prediction {prob.shape}, video {case.video.shape}"
    model = f"student {student} at step {step}" if student else f"teacher {rules.teacher_id}"
    check_prediction(prediction, model, case)
    mask = prob > threshold
    values = [*against_truth(prob, mask, case), *phases(mask, case), *published(prob, case)]
    values += [*score_heads(prediction, case, threshold=threshold, teacher=teacher), *further]
    values.append(MetricValue("temporal_dice", temporal_dice(mask), max(0, len(mask) - 1), reference=""))
    values.append(MetricValue("stray_share", stray_share(mask), len(mask), reference=""))
    if teacher is not None:
        agreement = dice(mask, teacher.lv_prob > threshold)
        values.append(MetricValue("dice_teacher", float(agreement.mean()), len(agreement), reference="teacher"))
    if rules.judge is not None:
        values += judge_mask(rules.judge, case, mask, controls=rules.judge_controls)
    return [
        value.score(case.clip_id, teacher_id=rules.teacher_id, student=student, step=step, threshold=threshold)
        for value in values
    ]
