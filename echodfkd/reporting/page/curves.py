"""Learning curves: scores and loss of all students over steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from echodfkd.reporting.case_table import TEACHER, mean_at, models
from echodfkd.reporting.figures import charts
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.rows import RunRows, column

RESAMPLES = 400
"""Fewer resamples than the tables' keep long runs quick: bands of curves are not quoted."""

SCORES = (
    ("dice_all", "Dice with the truth", "Dice with the truth", "No Dice with the truth has been scored."),
    ("judge_score", "Judge score", "judge score", "No judge has rated this run."),
    ("afd", "aFD", "aFD, mean of ED and ES, frames", "No ED or ES frame has been scored."),
    ("dice_teacher", "Dice with the teacher", "Dice with the teacher", "No Dice with the teacher has been scored."),
)
"""Metric, title, axis, and the sentence for a run that did not measure it."""


def curve_charts(runs: Mapping[str, RunRows]) -> list[Chart]:
    """One chart per score and one of the loss; several runs share each, their lines named ``run / student``."""
    return [*(_score_chart(runs, *wanted) for wanted in SCORES), _loss_chart(runs)]


def _score_chart(runs: Mapping[str, RunRows], metric: str, title: str, label: str, empty: str) -> Chart:
    data: list[dict[str, Any]] = []
    for run, rows in runs.items():
        for name in rows.students:
            for step in rows.scored_steps(name):
                found = mean_at(rows, name, step, metric, resamples=RESAMPLES)
                if found.n:
                    data.append({"run": run, "student": name, "step": step, "metric": metric, **found.to_json()})
    if not data:
        return Chart(f"curve_{metric}", title, empty)
    lines = []
    for run, name in dict.fromkeys((row["run"], row["student"]) for row in data):
        mine = [row for row in data if (row["run"], row["student"]) == (run, name)]
        x, y, low, high = np.array([[r["step"], r["mean"], r["low"], r["high"]] for r in mine], np.float64).T
        lines.append(charts.Line(_shown(runs, run, name), x, y, low, high))
    level = None
    if len(runs) == 1:
        rows = next(iter(runs.values()))
        if TEACHER in models(rows) and (teacher := mean_at(rows, "", -1, metric, resamples=RESAMPLES)).n:
            level = (TEACHER, teacher.mean)
            data.append(
                {"run": next(iter(runs)), "student": TEACHER, "step": -1, "metric": metric, **teacher.to_json()}
            )
    figure = charts.line_chart(lines, x_label="step", y_label=label, level=level)
    return Chart(
        f"curve_{metric}", title, f"over steps; bands are 95 % intervals over cases, {_cases(data)}", figure, data
    )


def _loss_chart(runs: Mapping[str, RunRows]) -> Chart:
    lines, data = [], []
    for run, rows in runs.items():
        students, steps, losses = (column(rows.training, name) for name in ("student", "step", "loss"))
        for name in rows.students:
            order = np.flatnonzero(students == name)
            if not len(order):
                continue
            order = order[np.argsort(steps[order], kind="stable")]
            lines.append(charts.Line(_shown(runs, run, name), steps[order].astype(np.float64), losses[order]))
            data += [{"run": run, "student": name, "step": int(steps[i]), "loss": float(losses[i])} for i in order]
    if not lines:
        return Chart("curve_loss", "Distillation loss", "No training step has been logged yet.")
    figure = charts.line_chart(lines, x_label="step", y_label="loss", log_y=True)
    return Chart("curve_loss", "Distillation loss", f"over steps, logarithmic; {len(data):,} updates", figure, data)


def _shown(runs: Mapping[str, RunRows], run: str, student: str) -> str:
    return student if len(runs) == 1 else f"{run} / {student}"


def _cases(data: list[dict[str, Any]]) -> str:
    counts = sorted({row["n"] for row in data})
    return f"n = {counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "") + " cases"
