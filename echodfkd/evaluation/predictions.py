"""Predictions of students and teachers for whole cases.

Legend: B cases, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from echodfkd.core.errors import ClipError, RunError
from echodfkd.core.records import VideoClip
from echodfkd.metrics.beat import beat_targets
from echodfkd.models.students.output import StudentOutput
from echodfkd.models.teachers.protocol import ClipKey, Teacher


@dataclass(frozen=True)
class Prediction:
    """Output of a student or teacher for one case; None or {} for outputs that it does not have."""

    lv_prob: np.ndarray
    """float32 (T, H, W)."""
    others: dict[str, np.ndarray] = field(default_factory=dict)
    """Probability of each further class, float32 (T, H, W)."""
    phase: np.ndarray | None = None
    """float32 (T,), 1 at ED and 0 at ES; NaN if the teacher's masks do not show it."""
    ef_percent: float | None = None
    """NaN if the teacher's masks do not show it."""


@torch.inference_mode()
def run_network(network: nn.Module, video: np.ndarray, device: str | torch.device) -> StudentOutput:
    """A student's output for one uint8 video (T, H, W), as a batch of one.

    The network is moved to ``device``, run in evaluation mode, and then put back into its previous mode.
    """
    was_training = network.training
    network.to(device).eval()
    try:
        return network(torch.from_numpy(np.ascontiguousarray(video)).unsqueeze(0).to(device))
    finally:
        network.train(was_training)


def predict_student(
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


def predict_teacher(teacher: Teacher, case: VideoClip, *, classes: Sequence[str], tasks: Sequence[str]) -> Prediction:
    """The teacher's masks of these classes for one case, and the phase and EF in them if ``tasks`` ask for these.

    Raises:
        ClipError: the teacher has no mask of this case, as a teacher of recorded masks may.
    """
    key = ClipKey(case.clip_id, case.index, case.window_start, is_case=True, route=case.route)
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


def check_prediction(prediction: Prediction, model: str, case: VideoClip) -> None:
    """Raise `RunError` if a mask of the prediction holds a value that is not finite. ``model`` names it."""
    for prob in (prediction.lv_prob, *prediction.others.values()):
        if not np.isfinite(prob).all():
            bad = int((~np.isfinite(prob)).any(axis=(1, 2)).sum())
            raise RunError(
                f"{model} predicts values that are not finite in {bad} of {len(prob)} frames of case {case.clip_id};"
                " its weights are broken, look at the training loss before this step"
            )
