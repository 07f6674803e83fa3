"""The tables of one run: scores, cost of each student, work of the stages, ledger, quarantine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.models.students.cost import STATED_SIZE
from echodfkd.reporting.case_table import TEACHER
from echodfkd.reporting.figures import charts
from echodfkd.reporting.figures.chart_style import STAGE_COLOURS
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.page.table import Cell, Column, Table, score_cell
from echodfkd.reporting.page.tables import METRICS
from echodfkd.reporting.rows import RunRows, column
from echodfkd.reporting.summary import spans_by_actor

MAX_QUARANTINE_ROWS = 50


@dataclass(frozen=True)
class ScoreRow:
    """One model in a table of scores: its first cells, its columns in the CSV, and its scores by metric."""

    cells: Sequence[Cell]
    facts: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Any]]


def score_table(
    heads: Sequence[str], rows: Sequence[ScoreRow], *, empty: str = "", marked: frozenset[int] = frozenset()
) -> Table:
    """Models against metrics: mean, interval and n per cell; a column for each of `METRICS` that any model has."""
    shown = [metric for metric in METRICS if any(metric.name in row.scores for row in rows)]
    cells = [[*row.cells, *(score_cell(row.scores.get(m.name), m.digits) for m in shown)] for row in rows]
    listed = [{**row.facts, "metric": metric, **score} for row in rows for metric, score in row.scores.items()]
    columns = [Column(f"{m.label} {m.arrow}".strip(), True, m.group, f"{m.name}: {m.help}") for m in shown]
    return Table("scores", "Scores", [*map(Column, heads), *columns], cells, listed, empty=empty, marked=marked)


def run_scores(rows: RunRows, summary: dict[str, Any]) -> Table:
    """Scores of one run's students and teacher."""
    found = []
    for name, student in summary["students"].items():
        if steps := rows.scored_steps(name):
            size = student["parameters"]
            about = [f"{size:,} weights"] if size else []
            cells = [Cell(name, notes=[*about, f"step {steps[-1]:,}"])]
            found.append(ScoreRow(cells, {"model": name, "step": steps[-1]}, student["scores"]))
    marked: frozenset[int] = frozenset()
    if summary["teacher"]["scores"]:
        marked = frozenset([len(found)])
        found.append(ScoreRow([Cell(TEACHER)], {"model": TEACHER, "step": -1}, summary["teacher"]["scores"]))
    return score_table(["model"], found, marked=marked)


def student_table(rows: RunRows, summary: dict[str, Any]) -> Table:
    """Size and cost of each student, its updates and the time of one."""
    cells, listed = [], []
    for name, student in summary["students"].items():
        macs, times = student["macs_per_frame"], _update_ms(rows, name)
        cells.append(
            [
                Cell(name, notes=["stopped early"] if student["stopped_early"] else []),
                _count(student["parameters"]),
                Cell(f"{macs / 1e6:,.1f}" if macs else "–", macs),
                _count(student["steps"]),
                _time_cell(times),
            ]
        )
        median, low, high = np.quantile(times, [0.5, 0.25, 0.75]) if len(times) else (np.nan,) * 3
        listed.append(
            {
                "student": name, "parameters": student["parameters"], "macs_per_frame": macs,
                "steps": student["steps"], "update_ms_median": float(median), "update_ms_quarter": float(low),
                "update_ms_three_quarters": float(high), "updates": len(times),
                "stopped_early": student["stopped_early"],
            }
        )  # fmt: skip
    labels = ("weights", "MMAC / frame", "updates", "ms / update")
    columns = [Column("student"), *(Column(label, True) for label in labels)]
    note = (
        f"MACs are of a frame of {STATED_SIZE} x {STATED_SIZE} pixels. An update's time is the median (and the middle"
        " half) of what its passes and its step kept a worker busy, waiting for other workers included."
    )
    if any(row["macs_per_frame"] is None for row in listed):
        note += " This run did not keep the MACs of all its students."
    return Table("students", "What each student takes", columns, cells, listed, empty="No student is known.", note=note)


def _update_ms(rows: RunRows, student: str) -> np.ndarray:
    busy = column(rows.training, "busy_s")[column(rows.training, "student") == student].astype(np.float64)
    return 1000 * busy[np.isfinite(busy)]


def _time_cell(times: np.ndarray) -> Cell:
    if not len(times):
        return Cell("–")
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
    return Cell(f"{median:,.1f}", float(median), [f"{low:,.1f} … {high:,.1f}", f"n {len(times):,}"])


def _count(value: int | None) -> Cell:
    return Cell(f"{value:,}" if value is not None else "–", value)


def _number(value: float | None) -> Cell:
    return Cell(f"{value:,.1f}" if value is not None else "–", value)


def timeline_section(rows: RunRows, summary: dict[str, Any]) -> tuple[Chart, Table]:
    """Who was busy when, and how much each stage did."""
    stages = spans_by_actor(rows)
    title, empty = "Work of each stage's actors over time", "No work of any stage has been logged yet."
    if not stages:
        return Chart("timeline", title, empty), Table("stages", "Work of the stages", [], [], empty=empty)
    cells, listed = [], []
    for stage, work in summary["pipeline"]["stages"].items():
        busy = work["busy_s"]
        share, rate = 100 * busy / max(work["actor_s"], 1e-9), work["frames"] / busy if busy > 0 else None
        cells.append(
            [
                Cell(stage, colour=STAGE_COLOURS.get(stage, "#777777")),
                *(_count(work[key]) for key in ("actors", "clips", "frames")),
                _number(busy),
                Cell(f"{share:.0f} %", share),
                Cell(f"{rate:,.0f}" if rate is not None else "–", rate),
            ]
        )
        listed.append({"stage": stage, **{key: work[key] for key in ("actors", "clips", "frames", "busy_s")}})
    labels = ("actors", "clips", "frames", "busy, s", "busy share", "frames / busy s")
    note = (
        "Actors: most at the same time. Busy seconds add up over all; the share is of an actor's time from its first"
        f" work to its last. At most {charts.MAX_ACTORS} actors of a stage are drawn; all are counted."
    )
    data = [
        {"stage": stage, "actor": actor, "start_s": float(start), "end_s": float(end)}
        for stage, actors in stages.items()
        for actor, work in actors.items()
        for start, end in work
    ]
    caption = f"n = {len(data):,} pieces of work of {sum(map(len, stages.values()))} actors"
    return (
        Chart("timeline", title, caption, charts.timeline_chart(stages), data),
        Table("stages", "Work of the stages", [Column("stage"), *(Column(label, True) for label in labels)], cells,
              listed, note=note),
    )  # fmt: skip


def ledger_table(counts: dict[str, int], plan: int) -> Table:
    """Counts of the plan's slots."""
    values = {"slots planned": plan, "clips trained": counts["clips"]}
    values |= {"to come": counts["to_come"], **{key: counts[key] for key in ("lost", "repeated", "quarantined")}}
    bad = {"lost": counts["lost"] > 0, "repeated": counts["repeated"] > 0}
    cells = [[Cell(f"{value:,}", value, bad=bad.get(key, False)) for key, value in values.items()]]
    return Table("ledger", "Ledger", [Column(key, True) for key in values], cells, [values])


def quarantine_table(rows: RunRows) -> Table:
    """The quarantined indices and why: the first ones on the page, all in the CSV."""
    found = sorted(rows.quarantine.to_pylist(), key=lambda row: (row["slot"], row["index"]))
    cells = [
        [
            Cell(str(row["slot"]) if row["slot"] >= 0 else "–", row["slot"]),
            Cell(str(row["index"]), row["index"]),
            Cell(str(row["clip_id"]), code=True),
            Cell(str(row["stage"])),
            Cell(str(row["reason"])),
        ]
        for row in found[:MAX_QUARANTINE_ROWS]
    ]
    note = "These clips could not be used; each slot drew another clip in place of a bad one."
    if len(found) > len(cells):
        note += f" The first {len(cells)} of {len(found):,} are shown."
    columns = [Column("slot", True), Column("index", True), Column("clip"), Column("stage"), Column("reason")]
    return Table("quarantine", "Quarantine", columns, cells, found, empty="No clip was quarantined.", note=note)
