"""Scores against cost (weights, multiply-accumulates), beside published networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from echodfkd.metrics.summary import NUM_RESAMPLES
from echodfkd.models.students.cost import STATED_SIZE
from echodfkd.reporting import published
from echodfkd.reporting.case_table import TEACHER, mean_at, models
from echodfkd.reporting.figures import charts
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.rows import RunRows

SCORES = (
    ("dice_all", "Dice with the truth", 1),
    ("afd", "aFD, mean of ED and ES, frames", -1),
    ("judge_score", "judge score", 1),
)
"""Metric, axis, and 1 if more is better, else -1."""
COSTS = (
    ("parameters", "weights", "weights"),
    ("macs", "MACs", f"MACs per frame of {STATED_SIZE} x {STATED_SIZE}"),
)


def pareto_front(costs: Sequence[float], scores: Sequence[float], *, better: int) -> list[int]:
    """Places of the points that no other one beats or equals in one and beats in the other, by rising cost.

    Args:
        costs: of each point, less is better.
        scores: of each point.
        better: 1 if more is better, -1 if less is.
    """
    front: list[int] = []
    order = sorted(range(len(costs)), key=lambda place: (costs[place], -better * scores[place]))
    for place in order:
        if not front or better * scores[place] > better * scores[front[-1]]:
            front.append(place)
    return front


def pareto_charts(runs: Mapping[str, RunRows]) -> list[Chart]:
    """A chart per score and cost; several runs share each."""
    found = []
    for metric, label, better in SCORES:
        own = [
            {
                "run": run, "model": name, "source": "run", "parameters": rows.sizes[name]["parameters"],
                "macs": rows.sizes[name]["macs_per_frame"], "metric": metric, **score.to_json(),
            }
            for run, rows in runs.items()
            for name, (student, step) in models(rows, teacher=False).items()
            if (score := mean_at(rows, student, step, metric, resamples=NUM_RESAMPLES)).n
        ]  # fmt: skip
        for cost, title, axis in COSTS:
            found.append(_chart(runs, own, metric, label, better, (cost, title, axis)))
    return found


def _chart(
    runs: Mapping[str, RunRows],
    own: list[dict[str, Any]],
    metric: str,
    label: str,
    better: int,
    cost: tuple[str, str, str],
) -> Chart:
    key, title, axis = cost
    name, title = f"pareto_{metric}_{key}", f"{label.split(',')[0]} against {title}"
    usable = [row for row in own if row[key]]
    if not usable:
        why = f"No {label.split(',')[0]} has been scored." if not own else f"The students' {axis} are not known."
        return Chart(name, title, why)
    front = pareto_front([row[key] for row in usable], [row["mean"] for row in usable], better=better)
    data = [{**row, "on_front": place in front} for place, row in enumerate(usable)]
    points = [
        charts.Point(
            row["model"] if len(runs) == 1 else f"{row['run']} / {row['model']}", row[key], row["mean"], row["low"],
            row["high"], number,
        )
        for number, row in enumerate(usable)
    ]  # fmt: skip
    others = _published(metric, key)
    data += others
    points += [charts.Point(r["model"], r[key], r["mean"], r["mean"], r["mean"], published=True) for r in others]
    level = _teacher_level(runs, metric)
    figure = charts.pareto_chart(points, [points[place] for place in front], x_label=axis, y_label=label, level=level)
    cases = [f"{n:,}" for n in sorted({row["n"] for row in usable})]
    students = f"{len(usable)} student{'s' * (len(usable) > 1)}"
    caption = f"{students}, 95 % intervals over n = {' to '.join(cases[:1] + cases[1:][-1:])} cases"
    return Chart(name, title, f"{caption}. {_about(metric, key)}".rstrip(". "), figure, data)


def _published(metric: str, key: str) -> list[dict[str, Any]]:
    """Published networks as rows of the chart's data; there are none but of Dice."""
    if metric != "dice_all":
        return []
    return [
        {
            "run": found.source, "model": found.name, "source": "published", "parameters": int(found.weights),
            "macs": found.macs, "metric": metric, "mean": found.dice, "low": None, "high": None, "n": None,
            "on_front": None,
        }
        for found in (*published.METHODS, *published.STUDENTS)
        if key == "parameters" or found.macs is not None
    ]  # fmt: skip


def _about(metric: str, key: str) -> str:
    if metric == "dice_all":
        missing = "" if key == "parameters" else " SimLVSeg, nnU-Net, DeepLabV3 and MU-UNet state no MACs."
        return (
            "Lower panel: published, on EchoNet-Dynamic's test videos (pairs are the authors' students: blocks,"
            f" layers). Its heights cannot be compared with the upper panel's, only the shapes.{missing}"
        )
    return ""


def _teacher_level(runs: Mapping[str, RunRows], metric: str) -> tuple[str, float] | None:
    rows = next(iter(runs.values()))
    if len(runs) != 1 or TEACHER not in models(rows):
        return None
    found = mean_at(rows, "", -1, metric, resamples=2)
    return ("this run's teacher", found.mean) if found.n else None
