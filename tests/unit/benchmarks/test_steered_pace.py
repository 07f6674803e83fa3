"""Paces of a run's updates, and their ratios over pairs of runs."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyarrow as pa
from scipy.stats import t

from tests.benchmarks.steered_pace import UPDATES, paces, ratio


def test_changes_of_law_are_apart_from_usual_updates() -> None:
    times = [100.0]
    for step in range(2, 3 * UPDATES + 1):
        times.append(times[-1] + (7.0 if step in (UPDATES + 1, 2 * UPDATES + 1) else 0.25))
    rows = [{"step": step, "time": time} for step, time in enumerate(times, start=1)]
    whole = times[-1] - times[0]
    # two cores, busy from before the first update; the processes end after the last one
    samples = [(90.0, 4.0), (times[-1] + 10.0, 4.0 + 2.0 * (whole + 20.0)), (times[-1] + 11.0, 0.0)]
    found = paces(SimpleNamespace(training=pa.Table.from_pylist(rows)), samples)  # type: ignore[arg-type]
    assert found == (0.25, 7.0, round(0.25 * (3 * UPDATES - 3) + 14, 2), round(2.0 * whole, 2))


def test_a_ratio_is_the_geometric_mean_over_pairs_with_the_interval_of_its_logarithm() -> None:
    seconds = {0: (1.0, 1.1), 1: (2.0, 1.9), 2: (1.5, 1.56)}
    rows: list[dict[str, object]] = [
        {"pair": pair, "follow": follow, "run_s": value}
        for pair, both in seconds.items()
        for follow, value in zip(("", "judge"), both, strict=True)
    ]
    logs = [math.log(b / a) for a, b in seconds.values()]
    mean = sum(logs) / 3
    half = t.ppf(0.975, 2) * math.sqrt(sum((value - mean) ** 2 for value in logs) / 2 / 3)
    wanted = [f"{math.exp(value):.3f}" for value in (mean, mean - half, mean + half)]
    assert ratio(rows, "judge", "run_s") == f"{wanted[0]} ({wanted[1]} … {wanted[2]}), n = 3"
    alone: list[dict[str, object]] = [{"pair": pair, "follow": f, "run_s": 1.0} for pair, f in ((3, ""), (4, "judge"))]
    assert ratio([*rows, *alone], "judge", "run_s").endswith("n = 3")
