"""Scores of what a student gives beside the left ventricle: other classes, the phase, the ejection fraction.

The left ventricle's own scores are those of `scoring.score_case`, whatever else a student has learned.

Legend: T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from echodfkd.core.errors import ClipError
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.evaluation.against_truth import Measured
from echodfkd.evaluation.case import check_finite, run_network
from echodfkd.metrics import cardiac
from echodfkd.metrics.beat import beat_targets
from echodfkd.metrics.overlap import dice
from echodfkd.models.teachers.protocol import ClipKey, Teacher


@dataclass(frozen=True)
class Prediction:
    """What a student, or the teacher, says about one case; None or {} where it says nothing."""

    lv_prob: np.ndarray
    """float32 (T, H, W)."""
    others: dict[str, np.ndarray] = field(default_factory=dict)
    """Probability of each further class, float32 (T, H, W)."""
    phase: np.ndarray | None = None
    """float32 (T,), 1 at ED and 0 at ES; NaN where the teacher's masks do not tell it."""
    ef_percent: float | None = None
    """NaN where the teacher's masks do not tell it."""


def predict_with_heads(
    network: nn.Module, video: np.ndarray, *, classes: Sequence[str], device: str | torch.device
) -> Prediction:
    """All outputs of a student for one uint8 video (T, H, W); ``classes`` are those of its config, in order."""
    output = run_network(network, video, device)
    prob_TCHW = output.mask_logits.float().sigmoid()[0].cpu().numpy()
    by_name = dict(zip(classes, prob_TCHW.swapaxes(0, 1), strict=True))
    phase, ef = output.phase_logits, output.ef
    return Prediction(
        by_name.pop("LV"),
        by_name,
        None if phase is None else phase.float().sigmoid()[0].cpu().numpy(),
        None if ef is None else 100.0 * float(ef[0]),
    )


def predict_with_teacher(
    teacher: Teacher, case: VideoClip, *, classes: Sequence[str], tasks: Sequence[str]
) -> Prediction:
    """The teacher's masks of these classes for one case, and what they say about the beat if ``tasks`` ask for it.

    Raises:
        ClipError: it has no mask of this case, as a teacher of recorded masks may.
    """
    key = ClipKey(case.clip_id, case.index, case.window_start, is_case=True)
    output = teacher.teach(case.video[None], [key], classes=classes)
    if output.faults:
        raise ClipError(output.faults[0])
    by_name = dict(zip(classes, output.masks[0].swapaxes(0, 1), strict=True))
    lv_prob = by_name.pop("LV")
    phase, ef = beat_targets(lv_prob[None], fps=case.fps) if tasks else (None, None)
    return Prediction(
        lv_prob,
        by_name,
        phase[0] if phase is not None and "phase" in tasks else None,
        100.0 * float(ef[0]) if ef is not None and "ef" in tasks else None,
    )


def score_heads(
    prediction: Prediction, case: VideoClip, *, threshold: float, who: str, teacher: Prediction | None = None
) -> list[Measured]:
    """Rows of everything but the left ventricle's mask.

    * ``dice_<class>`` with the truth and ``dice_teacher_<class>`` with the teacher, over all frames that are known. In
      a view that does not show a chamber its masks are empty, and score as `echodfkd.metrics.overlap.dice` says.
    * ``phase_ed_error_frames`` and ``phase_es_error_frames``: frames from ED (ES) to the nearest one that
      `echodfkd.metrics.cardiac`'s blind detector finds in the phase curve in place of an area curve.
    * ``phase_pearson``: correlation of phase and the truth's LV area, where every frame is annotated.
    * ``ef_head_abs_error``: points of ejection fraction between prediction and the case's own.

    Args:
        prediction: what is scored.
        case: with whatever truth it has.
        threshold: a pixel belongs to a class where its probability is above this.
        who: is at fault where a value is not finite.
        teacher: the teacher's own prediction; None gives no rows against it.

    Raises:
        RunError: a mask, or a student's phase or ejection fraction, is not finite.
    """
    rows = []
    for name, prob in prediction.others.items():
        check_finite(prob, who, case)
        rows += _overlaps(name, prob > threshold, case, threshold, teacher)
    if prediction.phase is not None:
        rows += _phase(prediction.phase, case)
    wanted = case.conditions.ef_percent
    if prediction.ef_percent is not None and wanted is not None:
        rows.append(Measured("ef_head_abs_error", abs(prediction.ef_percent - wanted), len(case.video)))
    return rows


def _overlaps(
    name: str, mask: np.ndarray, case: VideoClip, threshold: float, teacher: Prediction | None
) -> list[Measured]:
    rows = []
    if case.truth_labels is not None and name in case.class_names:
        known = case.truth_labels != TRUTH_UNKNOWN
        chosen = known.any(axis=(1, 2))
        truth = case.truth_labels == case.class_names.index(name)
        if chosen.any():
            value = float(dice((mask & known)[chosen], truth[chosen]).mean())
            rows.append(Measured(f"dice_{name.lower()}", value, int(chosen.sum())))
    if teacher is not None:
        value = float(dice(mask, teacher.others[name] > threshold).mean())
        rows.append(Measured(f"dice_teacher_{name.lower()}", value, len(mask), reference="teacher"))
    return rows


def _phase(phase: np.ndarray, case: VideoClip) -> list[Measured]:
    """A phase that is not known (the teacher's, NaN) has no detection, and so NaN for its errors."""
    curve = phase.astype(np.float64)
    known = bool(np.isfinite(curve).all())
    rows = []
    for name, frames, detect in (
        ("ed", case.ed_frames, cardiac.detect_ed_frames),
        ("es", case.es_frames, cardiac.detect_es_frames),
    ):
        if frames:
            found = detect(curve, fps=case.fps) if known else ()
            rows.append(Measured(f"phase_{name}_error_frames", cardiac.detection_error(found, frames), len(frames)))
    if case.truth_labels is not None and (case.truth_labels != TRUTH_UNKNOWN).all():
        area = cardiac.area_curve(case.truth_labels == case.class_names.index("LV"))
        rows.append(Measured("phase_pearson", float(cardiac.pearson_r(curve, area)), len(area)))
    return rows
