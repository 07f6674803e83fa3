"""``report.html``: one self-contained page per run, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from echodfkd.reporting import published
from echodfkd.reporting.figures.overlays import COLOURS
from echodfkd.reporting.generator_facts import generator_sentences
from echodfkd.reporting.page import agreement, cases, curves, groups, pareto, run_tables, steering, tables
from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.page.page import render, write_files
from echodfkd.reporting.page.real_heart import read_real_heart
from echodfkd.reporting.page.table import Table
from echodfkd.reporting.page.verdict import verdict
from echodfkd.reporting.rows import RunRows, read_rows
from echodfkd.reporting.summary import plan_slots, summarise
from echodfkd.reporting.teacher_facts import teacher_sentences
from echodfkd.storage.files import RunStorage


@dataclass(frozen=True)
class Report:
    """Everything on one run's page; charts and tables by section."""

    rows: RunRows
    summary: dict[str, Any]
    charts: dict[str, list[Chart]]
    tables: dict[str, Table]


def write_report(storage: RunStorage, *, files: bool = True, refresh_s: float = 0.0) -> str:
    """Write ``report.html``, and beside it in ``report/`` every table and chart as CSV and every chart as SVG and PDF.

    Args:
        storage: the run folder.
        files: write those beside the page, too.
        refresh_s: the page reloads itself every so many seconds; 0 does not.

    Returns:
        Path of the page.

    Raises:
        InputError: see `rows.read_rows`.
    """
    report = build_report(read_rows(storage))
    videos = cases.drawn_cases(storage, report.rows)
    storage.write("report.html", _render(report, videos, read_real_heart(storage), refresh_s).encode())
    if files:
        write_files(storage, [*(c for section in report.charts.values() for c in section), *report.tables.values()])
        cases.write_sheets(storage, videos)
    return f"{storage.root}/report.html"


def build_report(rows: RunRows) -> Report:
    """Charts and tables of a run, finished or not; missing ones give the reason."""
    summary = summarise(rows)
    judge_chart, judge_table = agreement.judge_section(rows)
    ef_chart, ef_table = agreement.ef_section(rows)
    strata_chart, strata_table = groups.strata_section(rows, summary)
    steering_charts, steering_table = steering.steering_section(rows)
    timeline, stages = run_tables.timeline_section(rows, summary)
    runs = {summary["run"]: rows}
    found = [
        run_tables.run_scores(rows, summary), run_tables.student_table(rows, summary), judge_table, ef_table,
        agreement.judge_reading_table(summary),
        strata_table, steering_table, groups.extremes_table(rows), stages, run_tables.quarantine_table(rows),
        run_tables.ledger_table(summary["ledger"], plan_slots(rows)),
    ]  # fmt: skip
    charts = {
        "curves": curves.curve_charts(runs),
        "pareto": pareto.pareto_charts(runs),
        "trust": [judge_chart, ef_chart, agreement.reliability_section(rows)],
        "strata": [strata_chart],
        "steering": steering_charts,
        "timeline": [timeline],
    }
    return Report(rows, summary, charts, {table.name: table for table in found})


def _render(report: Report, videos: list[cases.DrawnCase], real: dict[str, Any], refresh_s: float) -> str:
    rows, summary = report.rows, report.summary
    text = tables.ledger_sentence(rows, summary)
    return render(
        "report.html",
        title=summary["run"],
        verdict=verdict(rows, summary),
        refresh_s=refresh_s,
        notes=tables.notes(rows, summary) + [{"kind": "open", "text": note} for note in summary["source_notes"]],
        tiles=_tiles(summary),
        missing_scores=tables.missing_scores(rows),
        charts={name: [chart.on_page() for chart in section] for name, section in report.charts.items()},
        tables=report.tables,
        steered=steering.steering_sentences(rows),
        overlap=tables.overlap_sentence(rows),
        ledger=" ".join([text[0].upper() + text[1:], *generator_sentences(summary), *teacher_sentences(summary)]),
        overlays=[video.on_page() for video in videos],
        real=real,
        contour_legend=[{"name": name, "colour": colour} for name, colour in COLOURS.items()],
        published_note=published.ED_ES_NOTE,
        facts=tables.facts(rows, summary),
        config_yaml=tables.config_yaml(rows),
        own_options=tables.options_of(rows),
    )


def _tiles(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The handful of numbers at the top; only those that are known."""
    tiles = []
    students = {name: of["scores"].get("dice_all") for name, of in summary["students"].items()}
    known = {name: score for name, score in students.items() if score is not None and score["mean"] is not None}
    if known:
        name = max(known, key=lambda name: known[name]["mean"])
        tiles.append(_score_tile("best student's Dice", known[name], name))
    teacher = summary["teacher"]["scores"].get("dice_all")
    if teacher is not None and teacher["mean"] is not None:
        tiles.append(_score_tile("teacher's Dice", teacher, ""))
    tiles.append({"label": "clips trained", "value": f"{summary['ledger']['clips']:,}", "unit": "", "note": ""})
    pipeline = summary["pipeline"]
    for label, key in (("whole run", "wall_s"), ("first step after", "first_step_s"), ("steady training", "steady_s")):
        if pipeline[key] is not None:
            tiles.append({"label": label, "value": f"{pipeline[key]:,.1f}", "unit": "s", "note": ""})
    if pipeline["peak_memory_mb"] is not None:
        value = f"{pipeline['peak_memory_mb']:,.0f}"
        tiles.append({"label": "peak memory", "value": value, "unit": "MB", "note": ""})
    return tiles


def _score_tile(label: str, score: dict[str, Any], name: str) -> dict[str, str]:
    note = f"{score['low']:.3f} … {score['high']:.3f}, n {score['n']}"
    return {"label": label, "value": f"{score['mean']:.3f}", "unit": name, "note": note}
