"""The table behind every comparison of runs: a row is one model of one run, and its values are those of its cases.

A run is one draw of clips, initial weights and held-out cases. The interval of a score over runs is therefore Student's
over the runs' means, on a scale on which the score has no ends, and the interval of a difference is that of the runs'
mean differences over the same cases: hard cases, and the luck of a whole run, cancel. No interval is widened for the
number of models that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from echodfkd.core.errors import InputError
from echodfkd.metrics.summary import Interval, bootstrap_mean
from echodfkd.reporting.case_table import values_at
from echodfkd.reporting.rows import RunRows, column

_SHARES = ("dice", "ece")
"""How names of scores between 0 and 1 begin; the other scores of a study are 0 or more."""
ALL = "all"
"""Stands for the cases of every domain."""


@dataclass(frozen=True)
class RunModel:
    """One model of one run at one step. ``student`` is "" for the teacher, ``name`` is its name in the table."""

    run: str
    name: str
    rows: RunRows
    student: str
    step: int

    def values(self, metric: str, domain: str = ALL) -> dict[str, float]:
        """Clip id -> value of a metric on the cases of a domain; empty if it was not measured."""
        found = values_at(self.rows, self.student, self.step, metric)
        if domain == ALL:
            return found
        clips, domains = column(self.rows.cases, "clip_id"), column(self.rows.cases, "domain")
        return {str(clip): found[str(clip)] for clip in clips[domains == domain] if str(clip) in found}


@dataclass(frozen=True)
class Difference:
    """Difference of a model from the baseline in one metric.

    ``over_runs``: Student's interval over the runs' mean differences (n runs). ``over_cases``: bootstrap over the
    pairs of all runs (n pairs), for other cases scored by these same networks.
    """

    over_runs: Interval
    over_cases: Interval

    @property
    def is_clear(self) -> bool:
        """Both intervals lie on the same side of 0."""
        ends = (self.over_runs.low, self.over_runs.high, self.over_cases.low, self.over_cases.high)
        return all(end > 0 for end in ends) or all(end < 0 for end in ends)


def scored_model(rows: RunRows, student: str, name: str = "") -> RunModel:
    """A student of a run, or its teacher (""), at its last scored step. Raises `InputError` if it has no scores."""
    run = str(rows.config.get("name"))
    if not (steps := rows.scored_steps(student)):
        model = f"student {student}" if student else "its teacher"
        raise InputError(f"run {run}: {model} has no scores; was the run evaluated?")
    return RunModel(run, name or student, rows, student, steps[-1])


def student_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of Student's distribution, for at least 2 independent values (Student 1908)."""
    count = len(values)
    assert count >= 2, f"an interval over {count} values"
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / count**0.5
    return Interval(mean, mean - half, mean + half, count)


def score_interval(values: Sequence[float], metric: str) -> Interval:
    """`student_interval` of a score, computed on a scale without ends, so that it keeps to the score's range.

    Shares (0..1) go through logits, other scores (above 0) through logarithms. A value at an end of the range has
    neither: the plain interval is then cut there.
    """
    mean, count = float(np.mean(values)), len(values)
    top = 1.0 if metric.startswith(_SHARES) else np.inf
    if not all(0.0 < value < top for value in values):
        plain = student_interval(values)
        return Interval(mean, max(plain.low, min(0.0, *values)), min(plain.high, max(top, *values)), count)
    to, back = (special.logit, special.expit) if top == 1.0 else (np.log, np.exp)
    inner = student_interval(to(np.asarray(values)).tolist())
    return Interval(mean, float(back(inner.low)), float(back(inner.high)), count)


def compare(values: Sequence[Mapping[str, float]], baseline: Sequence[Mapping[str, float]]) -> Difference:
    """Values less the baseline's, each clip id -> value per run; cases that one of them lacks are left out."""
    pairs = [
        np.array([of_run[clip] - base[clip] for clip in sorted(of_run.keys() & base.keys())], np.float64)
        for of_run, base in zip(values, baseline, strict=True)
    ]
    means = [float(np.nanmean(run)) if np.isfinite(run).any() else float("nan") for run in pairs]
    return Difference(student_interval(means), bootstrap_mean(np.concatenate(pairs)))


def over_runs(
    models: Sequence[RunModel], baseline: Sequence[RunModel], metric: str, domain: str = ALL
) -> dict[str, Any] | None:
    """Mean and interval of a model over its runs, and its difference from the baseline in the same runs.

    None if one of the runs has no defined value.
    """
    values = [model.values(metric, domain) for model in models]
    if not all(np.isfinite([*of_run.values()]).any() for of_run in values):
        return None
    means = [float(np.nanmean(list(of_run.values()))) for of_run in values]
    difference = compare(values, [model.values(metric, domain) for model in baseline])
    return {
        **score_interval(means, metric).to_json(),
        "runs": means,
        "difference": {
            "over_runs": difference.over_runs.to_json(),
            "over_cases": difference.over_cases.to_json(),
            "clear": difference.is_clear,
        },
    }


def domains_of(models: Sequence[RunModel]) -> tuple[str, ...]:
    """Domains of the runs' cases, sorted, after `ALL`."""
    return (ALL, *sorted({str(word) for model in models for word in model.rows.cases["domain"].to_pylist()}))


def study_facts(models: Sequence[RunModel], metric: str) -> dict[str, Any]:
    """The first keys of study.json, from one model in each seed's run."""
    config = models[0].rows.config
    return {
        "study": str(config["name"]).rsplit("-seed", 1)[0],
        "seeds": [int(model.rows.config["seed"]) for model in models],
        "steps": config["train"]["steps"],
        "clips_per_step": config["train"]["global_batch"],
        "frames": config["window"]["frames"],
        "size": config["window"]["size"],
        "cases_per_run": len(models[0].values(metric)),
    }


def study_note(study: Mapping[str, Any]) -> str:
    """`study_facts` in words."""
    return (
        f"{study['steps']} steps of {study['clips_per_step']} clips of {study['frames']} frames,"
        f" {study['size']} x {study['size']} pixels; seeds {', '.join(map(str, study['seeds']))};"
        f" {study['cases_per_run']} held-out cases per seed."
    )


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], *, names: int = 1) -> str:
    """A Markdown table; its first ``names`` columns are text, the others numbers."""
    marks = ["---"] * names + ["---:"] * (len(head) - names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *lines))


def score_text(found: Mapping[str, Any] | None) -> str:
    """A result of `over_runs` as ``mean [low, high]``, or a dash."""
    if found is None or found["mean"] is None:
        return "-"
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def difference_text(found: Mapping[str, Any] | None) -> str:
    """The difference in a result of `over_runs`, with a star if it is clear, or a dash."""
    if found is None or found["mean"] is None:
        return "-"
    runs = found["difference"]["over_runs"]
    star = " *" if found["difference"]["clear"] else ""
    return f"{runs['mean']:+.3f} [{runs['low']:+.3f}, {runs['high']:+.3f}]{star}"
