"""Several runs of the same students, one per seed -> what each student is worth, and how sure that is.

A run is one draw of clips, initial weights and held-out cases. So the interval of a score is Student's over the
runs' means, and the interval of a difference is that of the runs' mean differences over the very same cases: what
makes a case hard, or a run lucky for all its students, drops out of it. No interval is widened for the number of
students that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import InputError
from echodfkd.metrics.summary import Interval, bootstrap_mean
from echodfkd.models.students.cost import student_cost
from echodfkd.reporting.comparisons import case_values
from echodfkd.reporting.rows import RunRows

METRICS = ("dice_all", "dice_ed", "dice_es", "hd95_all_mm", "afd_ed", "afd_es", "area_jitter", "ece")
"""What a study compares, all against the truth."""

_HEADS = ("Dice", "Dice ED", "Dice ES", "HD95 mm", "aFD ED", "aFD ES", "jitter", "ECE")
_COMPARED = {"dice_all": "Dice", "hd95_all_mm": "HD95", "area_jitter": "jitter", "ece": "ECE"}
"""Whose difference from the baseline has a column."""

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % quantiles of Student's distribution with 1 to 9 degrees of freedom (any statistical table)."""

MAX_SEEDS = len(_T_975) + 1


@dataclass(frozen=True)
class Difference:
    """How a student differs from the baseline, in one metric.

    ``over_runs``: Student's interval over the runs' mean differences (n runs). ``over_cases``: bootstrap over the
    pairs of all runs (n pairs): what other cases would have said of these very networks.
    """

    over_runs: Interval
    over_cases: Interval

    @property
    def is_clear(self) -> bool:
        """Both intervals lie on the same side of 0."""
        ends = (self.over_runs.low, self.over_runs.high, self.over_cases.low, self.over_cases.high)
        return all(end > 0 for end in ends) or all(end < 0 for end in ends)


def build_study(runs: Sequence[RunRows], *, baseline: str) -> dict[str, Any]:
    """The content of study.json.

    Args:
        runs: the runs' rows, one per seed, of the same config.
        baseline: the student that the others are compared with.

    Raises:
        InputError: a run has no scores of a student.
    """
    config = runs[0].config
    students = {}
    for name, options in config["students"].items():
        metrics: dict[str, Any] = {}
        for metric in METRICS:
            values = [_case_values(rows, name, metric) for rows in runs]
            if all(np.isfinite([*of_run.values()]).any() for of_run in values):
                metrics[metric] = summarise(values, [_case_values(rows, baseline, metric) for rows in runs])
        students[name] = {
            "options": dict(options),
            **student_cost(StudentConfig(**options).network, config["window"]["size"]),
            "metrics": metrics,
        }
    return {
        "study": str(config["name"]).rsplit("-seed", 1)[0],
        "seeds": [int(rows.config["seed"]) for rows in runs],
        "steps": config["train"]["steps"],
        "clips_per_step": config["train"]["global_batch"],
        "frames": config["window"]["frames"],
        "size": config["window"]["size"],
        "cases_per_run": len(_case_values(runs[0], baseline, METRICS[0])),
        "baseline": baseline,
        "students": students,
    }


def side_by_side(variants: Mapping[str, RunRows]) -> RunRows:
    """One seed's runs as if they were one: students are named as in `RunConfig.compared`, and nothing but their options
    and scores is kept.
    """
    students: dict[str, Any] = {}
    scores = []
    for variant, rows in variants.items():
        own = rows.config["students"]
        names = {name: variant if len(own) == 1 else f"{name}_{variant}" for name in own}
        students |= {names[name]: options for name, options in own.items()}
        labels = rows.scores["student"].to_pylist()
        kept = rows.scores.take([place for place, label in enumerate(labels) if label in names])
        place = kept.schema.get_field_index("student")
        labels = [names[label] for label in labels if label in names]
        scores.append(kept.set_column(place, kept.schema.field(place), pa.array(labels, kept.schema.field(place).type)))
    first = next(iter(variants.values()))
    return replace(first, config={**first.config, "students": students}, scores=pa.concat_tables(scores))


def cost_table(students: Mapping[str, Mapping[str, Any]]) -> str:
    """Sizes and costs of students as a Markdown table: each with two and with three blocks.

    Args:
        students: name -> options of `build_student`.
    """
    head = ["student"]
    for blocks in (2, 3):
        head += [f"{blocks} blocks: widths", "weights", "of the paper's", "MMAC/frame"]
    lines = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
    for name, options in students.items():
        cells = [name]
        for blocks in (2, 3):
            cost = student_cost(StudentConfig(**{**options, "blocks": blocks}).network, STATED_SIZE)
            paper = StudentConfig(blocks, options["layers"])
            share = cost["parameters"] / student_cost(paper.network, STATED_SIZE)["parameters"]
            cells += [", ".join(map(str, cost["widths"])), f"{cost['parameters']:,}", f"{share:.1%}"]
            cells.append(f"{cost['macs_per_frame'] / 1e6:.0f}")
        lines.append(_row(cells))
    return "\n".join(lines)


def student_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of Student's distribution, for 2 to 10 independent values (Student 1908)."""
    count = len(values)
    assert 2 <= count <= MAX_SEEDS, f"an interval over {count} values"
    mean = float(np.mean(values))
    half = _T_975[count - 2] * float(np.std(values, ddof=1)) / count**0.5
    return Interval(mean, mean - half, mean + half, count)


def compare(values: Sequence[Mapping[str, float]], baseline: Sequence[Mapping[str, float]]) -> Difference:
    """Student less baseline. Both are a mapping clip id -> value per run; cases that one of them lacks are left out."""
    pairs = [
        np.array([of_run[clip] - base[clip] for clip in sorted(of_run.keys() & base.keys())], np.float64)
        for of_run, base in zip(values, baseline, strict=True)
    ]
    means = [float(np.nanmean(run)) for run in pairs]
    return Difference(student_interval(means), bootstrap_mean(np.concatenate(pairs)))


def summarise(values: Sequence[Mapping[str, float]], baseline: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and interval over runs, and the difference from the baseline's; both clip id -> value per run."""
    means = [float(np.nanmean(list(of_run.values()))) for of_run in values]
    difference = compare(values, baseline)
    return {
        **student_interval(means).to_json(),
        "runs": means,
        "difference": {
            "over_runs": difference.over_runs.to_json(),
            "over_cases": difference.over_cases.to_json(),
            "clear": difference.is_clear,
        },
    }


def _case_values(rows: RunRows, student: str, metric: str) -> dict[str, float]:
    """Clip id -> value of a metric at the student's last scored step; empty where it was not measured."""
    if not rows.scored_steps(student):
        raise InputError(f"run {rows.config.get('name')}: student {student} has no scores; was the run evaluated?")
    return case_values(rows, student, metric)


def markdown_table(study: Mapping[str, Any]) -> str:
    """The study as a Markdown table: score [95 % interval] per student, and its difference from the baseline."""
    baseline = study["baseline"]
    head = ["student", "weights", "MMAC/frame", *_HEADS, *(f"{name} - {baseline}" for name in _COMPARED.values())]
    lines = [_row(head), _row(["---"] + ["---:"] * (len(head) - 1))]
    for name, student in study["students"].items():
        metrics = student["metrics"]
        cells = [name, f"{student['parameters']:,}", f"{student['macs_per_frame'] / 1e6:.1f}"]
        cells += [format_score(metrics.get(metric)) for metric in METRICS]
        cells += ["" if name == baseline else format_difference(metrics.get(metric)) for metric in _COMPARED]
        lines.append(_row(cells))
    lines += ["", *_notes(study)]
    return "\n".join(lines)


def _notes(study: Mapping[str, Any]) -> list[str]:
    seeds = study["seeds"]
    return [
        f"{study['steps']} steps of {study['clips_per_step']} clips of {study['frames']} frames,"
        f" {study['size']} x {study['size']} pixels; seeds {', '.join(map(str, seeds))};"
        f" {study['cases_per_run']} held-out cases per seed.",
        "Brackets: 95 % interval over the seeds. Jitter: 1 is the truth's own. A star: the difference is also clear"
        " of 0 over the cases. Intervals are not widened for the number of students.",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def format_score(found: Mapping[str, Any] | None) -> str:
    """What `summarise` gave as ``mean [low, high]``, or a dash."""
    if found is None or found["mean"] is None:
        return "-"
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def format_difference(found: Mapping[str, Any] | None) -> str:
    """The difference in it, with a star where it is clear, or a dash."""
    if found is None or found["mean"] is None:
        return "-"
    runs = found["difference"]["over_runs"]
    star = " *" if found["difference"]["clear"] else ""
    return f"{runs['mean']:+.3f} [{runs['low']:+.3f}, {runs['high']:+.3f}]{star}"
