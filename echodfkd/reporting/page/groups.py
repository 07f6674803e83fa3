"""Groups of cases: strata of patients and images, and each model's worst, median and best case."""

from __future__ import annotations

from typing import Any

import numpy as np

from echodfkd.reporting.case_table import models, values_at
from echodfkd.reporting.figures import charts_cases
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.page.table import Cell, Column, Table, score_cell
from echodfkd.reporting.rows import RunRows

MAX_DRAWN = 4
"""Students of the strata chart, the best ones; the table has all."""

SHOWN = (
    ("dice_all", "Dice", 3),
    ("afd_ed", "aFD ED, frames", 2),
    ("afd_es", "aFD ES, frames", 2),
    ("hd95_all_mm", "HD95, mm", 2),
    ("judge_score", "judge", 3),
)
"""Metrics of the table of single cases, with the digits shown."""

CONDITIONS = {"ef_percent": "EF %", "age_years": "age, years", "heart_rate_bpm": "heart rate, 1/min"}
CONDITIONS |= {"image_quality": "image quality"}
"""Conditions in words; others are shown by their names."""


def strata_section(rows: RunRows, summary: dict[str, Any]) -> tuple[Chart, Table]:
    """Dice (the judge's score without truth) by stratum: chart of the best students, table of all."""
    students = {name: of["strata"] for name, of in summary["students"].items() if of["strata"]}
    metric = "dice_all" if any("dice_all" in of["scores"] for of in summary["students"].values()) else "judge_score"
    label = "Dice with the truth" if metric == "dice_all" else "judge score"
    title, empty = f"{label} by group of cases", "Nothing is known of the cases that would tell them apart."
    groups = list(dict.fromkeys((c, s) for of in students.values() for c, found in of.items() for s in found))
    listed = [
        {"student": name, "condition": condition, "stratum": stratum, "metric": key, **score}
        for name, of in students.items()
        for condition, found in of.items()
        for stratum, scores in found.items()
        for key, score in scores.items()
    ]
    if not any(row["metric"] == metric and row["n"] for row in listed):
        return Chart("strata", title, empty), Table("strata", title, [], [], empty=empty)
    cells = []
    for condition, stratum in groups:
        scores = [of.get(condition, {}).get(stratum, {}).get(metric) for of in students.values()]
        cells.append([Cell(CONDITIONS.get(condition, condition)), Cell(stratum), *(score_cell(s, 3) for s in scores)])
    columns = [Column("condition"), Column("group"), *(Column(name, True) for name in students)]
    note = "A group holds its lower edge. Mean over its cases, 95 % interval, number of cases."
    means = {name: of["scores"].get(metric, {}).get("mean") for name, of in summary["students"].items()}
    best = sorted((name for name in students if means[name] is not None), key=lambda name: -means[name])[:MAX_DRAWN]
    drawn = {
        name: [_ends(students[name].get(condition, {}).get(stratum, {}).get(metric)) for condition, stratum in groups]
        for name in best
    }
    labels = [f"{CONDITIONS.get(condition, condition)}  {stratum}" for condition, stratum in groups]
    figure = charts_cases.strata_chart(labels, drawn, x_label=label)
    counts = sorted(row["n"] for row in listed if row["metric"] == metric)
    caption = f"the best {len(best)} students" if len(best) < len(students) else "all students"
    caption += f", 95 % intervals; n = {counts[0]:,} to {counts[-1]:,} cases in a group"
    return Chart("strata", title, caption, figure, listed), Table("strata", title, columns, cells, listed, note=note)


def _ends(score: dict[str, Any] | None) -> tuple[float, float, float]:
    if score is None or score["mean"] is None:
        return (np.nan, np.nan, np.nan)
    return (score["mean"], score["low"], score["high"])


def ranked_cases(rows: RunRows, student: str, step: int) -> list[tuple[str, float]]:
    """Cases with their Dice (judge score without truth), the worst first; undefined ones are left out."""
    for metric in ("dice_all", "judge_score"):
        found = values_at(rows, student, step, metric)
        if kept := [(clip, value) for clip, value in found.items() if np.isfinite(value)]:
            return sorted(kept, key=lambda pair: (pair[1], pair[0]))
    return []


def chosen_places(count: int, wanted: int) -> list[int]:
    """Places of ``wanted`` of ``count`` ranked cases from worst to best, evenly: 3 are worst, median and best."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(wanted, count))}) if wanted > 0 else []


def cases_to_draw(rows: RunRows, wanted: int) -> dict[str, list[int]]:
    """Student -> numbers of its ``wanted`` cases that are worth a look, from the worst to the best."""
    numbers = dict(zip(rows.cases["clip_id"].to_pylist(), rows.cases["index"].to_pylist(), strict=True))
    found = {}
    for name, (student, step) in models(rows, teacher=False).items():
        ranked = [clip for clip, _ in ranked_cases(rows, student, step) if clip in numbers]
        found[name] = [numbers[ranked[place]] for place in chosen_places(len(ranked), wanted)]
    return found


def rank_words(place: int, count: int) -> str:
    """The rank in words; place 0 is the worst."""
    name = {0: "worst", count - 1: "best"}.get(place, "median" if place == round((count - 1) / 2) else "")
    return f"{name}, rank {place + 1} of {count}" if name else f"rank {place + 1} of {count}"


def extremes_table(rows: RunRows) -> Table:
    """Worst, median and best case of every model."""
    title, cells, listed = "Worst, median and best cases", [], []
    metrics = set(rows.scores["metric"].to_pylist())
    shown = [wanted for wanted in SHOWN if wanted[0] in metrics]
    for name, (student, step) in models(rows).items():
        ranked = ranked_cases(rows, student, step)
        values = {metric: values_at(rows, student, step, metric) for metric, _, _ in shown}
        for place in chosen_places(len(ranked), 3):
            clip = ranked[place][0]
            of_case = {metric: values[metric].get(clip, np.nan) for metric, _, _ in shown}
            words = rank_words(place, len(ranked))
            texts = [_value(of_case[metric], digits) for metric, _, digits in shown]
            cells.append([Cell(name), Cell(words, place), Cell(clip, code=True), *texts])
            listed.append({"model": name, "rank": place + 1, "of": len(ranked), "clip_id": clip, **of_case})
    columns = [Column("model"), Column("case"), Column("clip"), *(Column(label, True) for _, label, _ in shown)]
    note = "Ranked by Dice with the truth, by the judge's score where there is no truth. Values of one case each (n 1)."
    return Table("extremes", title, columns, cells, listed, empty="No case has been scored.", note=note)


def _value(value: float, digits: int) -> Cell:
    return Cell(f"{value:.{digits}f}", value) if np.isfinite(value) else Cell("–")
