"""Scores of a student's further outputs: other classes, the phase, the ejection fraction.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import numpy as np

from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.evaluation.against_truth import MetricValue
from echodfkd.evaluation.predictions import Prediction
from echodfkd.metrics import cardiac
from echodfkd.metrics.blind_events import detect_events
from echodfkd.metrics.overlap import dice


def score_heads(
    prediction: Prediction, case: VideoClip, *, threshold: float, teacher: Prediction | None = None
) -> list[MetricValue]:
    """Scores of everything except the left ventricle's mask.

    * ``dice_<class>`` with the truth and ``dice_teacher_<class>`` with the teacher, over all annotated
      frames. A chamber that the view does not show has empty masks: see `echodfkd.metrics.overlap.dice`.
    * ``phase_ed_error_frames`` and ``phase_es_error_frames``: frames from ED (ES) to the nearest one that
      `echodfkd.metrics.blind_events` finds in the phase curve.
    * ``phase_pearson``: correlation of the phase with the truth's LV area, if every frame is annotated.
    * ``ef_head_abs_error``: difference in points between the predicted and the known ejection fraction.

    Args:
        prediction: of a student or the teacher.
        case: with any truth it has.
        threshold: a pixel belongs to a class if its probability is above this.
        teacher: the teacher's prediction; None gives no rows against it.
    """
    rows = []
    for name, prob in prediction.others.items():
        rows += _overlaps(name, prob > threshold, case, threshold, teacher)
    if prediction.phase is not None:
        rows += _phase(prediction.phase, case)
    wanted = case.conditions.ef_percent
    if prediction.ef_percent is not None and wanted is not None:
        rows.append(MetricValue("ef_head_abs_error", abs(prediction.ef_percent - wanted), len(case.video)))
    return rows


def _overlaps(
    name: str, mask: np.ndarray, case: VideoClip, threshold: float, teacher: Prediction | None
) -> list[MetricValue]:
    rows = []
    if case.truth_labels is not None and name in case.class_names:
        known = case.truth_labels != TRUTH_UNKNOWN
        chosen = known.any(axis=(1, 2))
        truth = case.truth_labels == case.class_names.index(name)
        if chosen.any():
            value = float(dice((mask & known)[chosen], truth[chosen]).mean())
            rows.append(MetricValue(f"dice_{name.lower()}", value, int(chosen.sum())))
    if teacher is not None and name in teacher.others:
        value = float(dice(mask, teacher.others[name] > threshold).mean())
        rows.append(MetricValue(f"dice_teacher_{name.lower()}", value, len(mask), reference="teacher"))
    return rows


def _phase(phase: np.ndarray, case: VideoClip) -> list[MetricValue]:
    """Scores of a phase curve. An unknown phase (NaN, of a teacher) has no detections, so its errors are NaN."""
    curve = phase.astype(np.float64)
    known = bool(np.isfinite(curve).all())
    rows = []
    events = detect_events(curve, fps=case.fps) if known else ((), ())
    for name, frames, found in zip(("ed", "es"), (case.ed_frames, case.es_frames), events, strict=True):
        if frames:
            rows.append(MetricValue(f"phase_{name}_error_frames", cardiac.detection_error(found, frames), len(frames)))
    if case.truth_labels is not None and (case.truth_labels != TRUTH_UNKNOWN).all():
        area = cardiac.area_curve(case.truth_labels == case.class_names.index("LV"))
        rows.append(MetricValue("phase_pearson", float(cardiac.pearson_r(curve, area)), len(area)))
    return rows
