"""The measured precision of a run against the other one."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch

from echodfkd.config.file import load_config
from echodfkd.core import precision
from echodfkd.core.precision import MARGIN, faster, in_words
from echodfkd.teaching.build import teacher_seconds
from echodfkd.training.student_precision import student_seconds
from tests.benchmarks.timing import Report

LONG_S, QUICK_S, ROUNDS = 20.0, 2.0, 1000
"""Of the second look, which the choice does not see."""
SETTINGS = {
    "demo": ["window={frames: 16, size: 56}", "train.global_batch=4"],
    "published size": ["window={frames: 25, size: 112}", "train.global_batch=4", "teacher.kind=embedded_wild"],
}
STUDENTS = "students={a: {blocks: 3, layers: 1}, b: {blocks: 2, layers: 1}}"


def precision_auto(report: Report, *, quick: bool) -> dict[str, object]:
    """Time of the precision that ``auto`` takes, over that of the better one, teacher and students."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    worst = 0.0
    for name, options in SETTINGS.items():
        config = load_config(None, [STUDENTS, *options])
        works: dict[str, Callable[[], dict[str, float]]] = {
            "teacher": lambda config=config: teacher_seconds(config.teacher, device=device, window=config.window),
            "students": lambda config=config: student_seconds(config, device),
        }
        for part, measure in works.items():
            seen = measure()
            with patch.multiple(precision, MOST_S=QUICK_S if quick else LONG_S, MOST_ROUNDS=ROUNDS):
                again = measure()
            ratio = again[faster(seen)] / min(again.values())
            worst = max(worst, ratio)
            report(
                f"{name:<15} {part:<9} auto is {in_words(seen):<38} later fp32 {1000 * again['fp32']:7.1f} ms,"
                f" bf16 {1000 * again['bf16']:7.1f} ms: {ratio:.3f} of the better one"
            )
    return {"value": worst, "target": 1 + MARGIN, "holds": worst <= 1 + MARGIN, "unit": "time over the better one's"}
