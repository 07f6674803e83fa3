"""The best of a student's published checkpoints, by its scores.

The evaluators score every checkpoint on the same held-out cases, which a seed of their own fixes
(``evaluation.source``): a validation set that no training clip is drawn from. A score chosen by it must not be
reported as that of a test set.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from echodfkd.reporting.case_table import values_at
from echodfkd.reporting.rows import RunRows

METRICS = ("dice_all", "dice_teacher")
"""The deciding metrics: overlap with the truth, or with the teacher if no case has truth."""


def best_checkpoint(rows: RunRows, student: str) -> dict[str, Any] | None:
    """``step``, ``metric``, ``value`` (mean over cases), ``n`` cases, and ``steps`` compared; None without scores.

    Checkpoints are compared on the cases that all of them were scored on, so that a case that one of them lacks makes
    none better. Of equals the earliest is taken.
    """
    for metric in METRICS:
        by_step = {step: values_at(rows, student, step, metric) for step in rows.scored_steps(student)}
        by_step = {step: values for step, values in by_step.items() if values}
        if not by_step:
            continue
        finite = [{clip for clip, value in values.items() if np.isfinite(value)} for values in by_step.values()]
        clips = sorted(set.intersection(*finite))
        if not clips:
            continue
        means = {step: float(np.mean([values[clip] for clip in clips])) for step, values in by_step.items()}
        step = max(sorted(means), key=lambda step: means[step])
        return {"step": step, "metric": metric, "value": means[step], "n": len(clips), "steps": len(means)}
    return None
