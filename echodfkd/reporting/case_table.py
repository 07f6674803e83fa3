"""Values per case of one model at one step, the input of curves, Pareto charts and agreement."""

from __future__ import annotations

import numpy as np

from echodfkd.metrics.summary import Interval, bootstrap_mean
from echodfkd.reporting.rows import RunRows

TEACHER = "teacher"
"""Name of the teacher on the page; its rows carry no student's name."""

MEANS = {"afd": ("afd_ed", "afd_es")}
"""Metrics of the page that are a case's mean of two others."""


def models(rows: RunRows, *, teacher: bool = True) -> dict[str, tuple[str, int]]:
    """Shown name -> (student, step) of all that was scored, at the last scored step; the teacher comes last."""
    found = {name: (name, steps[-1]) for name in rows.students if (steps := rows.scored_steps(name))}
    if teacher and (steps := [step for step in rows.scored_steps("") if step == -1]):
        found[TEACHER] = ("", steps[-1])
    return found


def values_at(rows: RunRows, student: str, step: int, metric: str) -> dict[str, float]:
    """Clip id -> value of a metric, those of `MEANS` included; NaN if it is undefined on a case."""
    if metric in MEANS:
        parts = [values_at(rows, student, step, part) for part in MEANS[metric]]
        shared = set.intersection(*(set(part) for part in parts))
        return {clip: float(np.mean([part[clip] for part in parts])) for clip in parts[0] if clip in shared}
    at = rows.score_groups[student, step]
    chosen = at[rows.score_columns["metric"][at] == metric]
    clips, values = rows.score_columns["clip_id"][chosen], rows.score_columns["value"][chosen]
    return {str(clip): float(value) for clip, value in zip(clips, values, strict=True)}


def last_values(rows: RunRows, student: str, metric: str) -> dict[str, float]:
    """`values_at` the student's last scored step."""
    return values_at(rows, student, rows.scored_steps(student)[-1], metric)


def mean_at(rows: RunRows, student: str, step: int, metric: str, *, resamples: int) -> Interval:
    """Mean over cases and its 95 % interval."""
    values = np.array([*values_at(rows, student, step, metric).values()], np.float64)
    return bootstrap_mean(values, seed=int(rows.config.get("seed") or 0), num_resamples=resamples)


def paired(rows: RunRows, student: str, step: int, x: str, y: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Cases on which two metrics are both finite, by name, and the two values of each, float64 (N,)."""
    of_x, of_y = values_at(rows, student, step, x), values_at(rows, student, step, y)
    clips = [clip for clip in of_x if clip in of_y and np.isfinite(of_x[clip]) and np.isfinite(of_y[clip])]
    return clips, np.array([of_x[c] for c in clips], np.float64), np.array([of_y[c] for c in clips], np.float64)
