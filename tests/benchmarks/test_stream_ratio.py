"""The verdict of ``stream_vs_two_stage`` counts the start of a stream."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echodfkd.metrics.summary import bootstrap_mean
from tests.benchmarks import stream_vs_two_stage as case


def test_the_start_of_a_stream_counts_and_decides(monkeypatch):
    """A stream whose updates take 2 s an epoch behind a start of 30 s, against 100 s of teaching and 5 s an epoch."""
    epochs = range(1, 21)
    stream = {
        "s": {epoch: 30.0 + 2.0 * epoch for epoch in epochs},
        "steady_s": {epoch: 2.0 * epoch for epoch in epochs},
        "first_step_s": 30.0,
        "busy": {},
    }
    times = {"taught": 100.0, "two_stage": [5.0 * epoch for epoch in epochs], "precision": "fp32"}
    monkeypatch.setattr(case, "compare_times", lambda root, plan: {**times, "streams": {"cold cache": stream}})
    apart = bootstrap_mean(np.array([0.02, 0.03, 0.01]), seed=0)
    monkeypatch.setattr(case, "compare_students", lambda root, plan, cases: (apart, (0.9, 0.92)))
    lines: list[str] = []
    found = case.stream_vs_two_stage(lines.append, quick=False)
    assert lines[0].startswith("the start of a stream counts")
    assert found["value"] == {"1": pytest.approx(32 / 105, abs=1e-4), "5": 0.32, "20": pytest.approx(0.35, abs=1e-4)}
    assert found["without_start"]["cold cache"]["1"] == pytest.approx(2 / 105, abs=1e-4)
    assert found["holds"] is False  # 0.305 against 0.1; without the start it would be 0.019
    assert "its start counted" in found["unit"]
    assert math.isclose(found["first_step_s"]["cold cache"], 30.0)
