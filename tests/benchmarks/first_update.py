"""Seconds from the command to the first update, beside the least that Ray needs for a first batch."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from echodfkd.core import clock
from tests.benchmarks.data_wait import DEMO
from tests.benchmarks.job_run import checkout_module, distil, spans_of
from tests.benchmarks.timing import Report

TARGET = 1.5
"""Times as long as a stream of Ray's that makes, teaches and learns nothing."""
MARKS = ("first clip begun", "first clip taught", "first update begun", "first update done", "run ended")


def first_update(report: Report, *, quick: bool) -> dict[str, Any]:
    """Seconds from the command to the demo's first update over those to a first batch of Ray alone (Ray)."""
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 if quick else 3):
            rounds.append({**our_marks(folder, f"run{number}"), "bare Ray, first batch": bare_seconds()})
    report(f"{'seconds after the command':<28}" + "".join(f"{f'round {n}':>10}" for n in range(len(rounds))))
    for name in rounds[0]:
        report(f"{name:<28}" + "".join(f"{one[name]:>10.1f}" for one in rounds))
    ratios = [one["first update begun"] / one["bare Ray, first batch"] for one in rounds]
    report(f"first update begun over bare Ray: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    value = float(np.median(ratios))
    return {
        "value": round(value, 3),
        "unit": "seconds to the first update's begin over those to a first batch of Ray alone, median of rounds",
        "target": TARGET,
        "holds": value <= TARGET,
        "rounds": rounds,
    }


def our_marks(folder: str, name: str) -> dict[str, float]:
    """Seconds from the command to what happens first in each stage of a short run of the demo's students."""
    begin = clock.now()
    rows = distil([*DEMO, "train.steps=4"], storage=folder, name=name)
    end = clock.now()
    source, teacher, students = (spans_of(rows, stage) for stage in ("source", "teacher", "students"))
    marks = (source[:, 0].min(), teacher[:, 1].min(), students[0, 0], students[0, 1], end)
    return {mark: float(at) - begin for mark, at in zip(MARKS, marks, strict=True)}


def bare_seconds() -> float:
    """Seconds from the command to the first batch of `tests.benchmarks.bare_run`."""
    begin = clock.now()
    return float(checkout_module("tests.benchmarks.bare_run").splitlines()[-1]) - begin
