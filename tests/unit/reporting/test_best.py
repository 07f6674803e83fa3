"""The best checkpoint of a student, by made-up rows of scores."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from echodfkd.reporting.best import best_checkpoint
from echodfkd.reporting.rows import RunRows
from echodfkd.storage import schemas


def fake_rows(values: dict[str, dict[int, dict[str, float]]]) -> RunRows:
    """metric -> step -> clip id -> value, of one student."""
    rows = [
        dict.fromkeys(schemas.SCORE_SCHEMA.names)
        | {"clip_id": clip, "teacher_id": "t", "student": "a", "step": step, "metric": metric, "reference": "", "n": 1}
        | {"unit": "", "value": value}
        for metric, by_step in values.items()
        for step, by_clip in by_step.items()
        for clip, value in by_clip.items()
    ]
    empty = pa.table({})
    scores = pa.Table.from_pylist(rows, schema=schemas.SCORE_SCHEMA)
    return RunRows({}, {}, {}, (), scores, empty, empty, empty, pa.table({"student": pa.array([], "str")}), empty)


def test_the_best_step_is_that_of_the_highest_mean() -> None:
    values = {5: {"x": 0.5, "y": 0.5}, 10: {"x": 0.9, "y": 0.7}, 15: {"x": 0.7, "y": 0.7}}
    found = best_checkpoint(fake_rows({"dice_all": values, "afd_ed": {15: {"x": 9.0}}}), "a")
    assert found == {"step": 10, "metric": "dice_all", "value": pytest.approx(0.8), "n": 2, "steps": 3}


def test_steps_are_compared_on_the_cases_they_share() -> None:
    """Step 10 lacks the hard case y, and step 15 has no number for it: over x alone step 5 leads."""
    values = {5: {"x": 0.9, "y": 0.1}, 10: {"x": 0.8}, 15: {"x": 0.7, "y": math.nan}}
    found = best_checkpoint(fake_rows({"dice_all": values}), "a")
    assert found == {"step": 5, "metric": "dice_all", "value": 0.9, "n": 1, "steps": 3}


def test_of_equals_the_earliest_and_without_truth_the_teacher_decides() -> None:
    values = {15: {"x": 0.7}, 5: {"x": 0.7}, 10: {"x": 0.6}}
    found = best_checkpoint(fake_rows({"dice_teacher": values}), "a")
    assert found == {"step": 5, "metric": "dice_teacher", "value": 0.7, "n": 1, "steps": 3}


def test_without_a_comparable_score_nothing_is_best() -> None:
    assert best_checkpoint(fake_rows({"afd_ed": {5: {"x": 1.0}}}), "a") is None
    assert best_checkpoint(fake_rows({"dice_all": {5: {"x": 1.0}, 10: {"y": 1.0}}}), "a") is None
    assert best_checkpoint(fake_rows({}), "nobody") is None
