"""``report.html``: one self-contained page per run, whatever state the run is in."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np

from echodfkd.errors import ClipError, InputError
from echodfkd.metrics.summary import bootstrap_mean
from echodfkd.reporting import charts, tables
from echodfkd.reporting.overlays import COLOURS, stills_png
from echodfkd.reporting.rows import RunRows, column, read_rows
from echodfkd.reporting.summary import plan_slots, summarise
from echodfkd.reporting.teacher_facts import teacher_sentences
from echodfkd.storage import RunStorage

MAX_OVERLAYS = 12
_CURVE_RESAMPLES = 400
"""Bands of curves are looked at, not quoted: fewer resamples than the table keep long runs quick."""


def write_report(storage: RunStorage) -> str:
    """Write ``report.html`` and return where it lies.

    The page makes no request: style, charts, pictures and videos are inside it. A run without scores, without
    a judge, unfinished or failed gives a page that says so.

    Raises:
        InputError: see `rows.read_rows`.
    """
    storage.write("report.html", render_report(storage).encode())
    return f"{storage.root}/report.html"


def render_report(storage: RunStorage) -> str:
    """The page as text. Raises as `write_report`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined)
    rows = read_rows(storage)
    return environment.get_template("report.html").render(
        css=(here / "report.css").read_text(), overlays=_overlays(storage, rows), **_context(rows)
    )


def _context(rows: RunRows) -> dict[str, Any]:
    summary = summarise(rows)
    counts = summary["ledger"]
    ledger_text = tables.ledger_sentence(rows, summary)
    return {
        "summary": summary,
        "notes": tables.notes(rows, summary),
        "tiles": _tiles(rows, summary),
        "headline": tables.headline_table(rows, summary),
        "missing_scores": tables.missing_scores(rows),
        "charts": _charts(rows, summary),
        "students": tables.student_table(rows, summary),
        "timeline": tables.timeline(rows, summary),
        "ledger": {
            "text": " ".join([ledger_text[0].upper() + ledger_text[1:], *teacher_sentences(summary)]),
            "plan": f"{plan_slots(rows):,}",
            **{key: f"{value:,}" for key, value in counts.items()},
            "lost_bad": counts["lost"] > 0 and bool(rows.run),
            "repeated_bad": counts["repeated"] > 0,
        },
        "quarantine": tables.quarantine_table(rows),
        "contour_legend": [{"name": name, "colour": colour} for name, colour in COLOURS.items()],
        "facts": tables.facts(rows, summary),
        "config_yaml": tables.config_yaml(rows),
    }


def _tiles(rows: RunRows, summary: dict[str, Any]) -> list[dict[str, str]]:
    """The handful of numbers at the top; only those that are known."""
    tiles = []
    best = [
        (s["scores"]["dice_all"]["mean"], name)
        for name, s in summary["students"].items()
        if s["scores"].get("dice_all", {}).get("mean") is not None
    ]
    if best:
        value, name = max(best)
        tiles.append({"label": "best student's Dice", "value": f"{value:.3f}", "unit": name})
    teacher = summary["teacher"]["scores"].get("dice_all", {}).get("mean")
    if teacher is not None:
        tiles.append({"label": "teacher's Dice", "value": f"{teacher:.3f}", "unit": ""})
    tiles.append({"label": "clips trained", "value": f"{summary['ledger']['clips']:,}", "unit": ""})
    pipeline = summary["pipeline"]
    for label, key in (("whole run", "wall_s"), ("first step after", "first_step_s"), ("steady training", "steady_s")):
        if pipeline[key] is not None:
            tiles.append({"label": label, "value": f"{pipeline[key]:,.1f}", "unit": "s"})
    if pipeline["peak_memory_mb"] is not None:
        tiles.append({"label": "peak memory", "value": f"{pipeline['peak_memory_mb']:,.0f}", "unit": "MB"})
    return tiles


def _charts(rows: RunRows, summary: dict[str, Any]) -> list[dict[str, str]]:
    found = [
        _score_chart(rows, summary, "dice_all", "Dice with the truth", "No Dice with the truth has been scored."),
        _score_chart(rows, summary, "judge_score", "Judge score", "No judge has rated this run."),
        _loss_chart(rows),
    ]
    size = _size_chart(summary)
    return [*found, size] if size else found


def _score_chart(rows: RunRows, summary: dict[str, Any], metric: str, title: str, empty: str) -> dict[str, str]:
    """One metric over steps, a line per student with its 95 % band, and the teacher's level."""
    lines = [line for name in rows.students if (line := _score_line(rows, name, metric, summary["seed"])) is not None]
    if not lines:
        return {"title": title, "text": empty, "svg": ""}
    teacher = summary["teacher"]["scores"].get(metric, {}).get("mean")
    svg = charts.line_chart(
        lines,
        name=f"chart-{metric}",
        title=f"{title} over steps",
        x_label="step",
        y_label=title,
        level=("teacher", teacher) if teacher is not None else None,
    )
    return {"title": title, "text": "over steps; bands are 95 % intervals over cases", "svg": svg}


def _score_line(rows: RunRows, student: str, metric: str, seed: int) -> charts.Line | None:
    metrics, values = column(rows.scores, "metric"), column(rows.scores, "value")
    points = []
    for step in rows.scored_steps(student):
        at = rows.score_groups[student, step]
        found = bootstrap_mean(values[at][metrics[at] == metric], seed=seed, num_resamples=_CURVE_RESAMPLES)
        if found.n:
            points.append((step, found.mean, found.low, found.high))
    if not points:
        return None
    x, y, low, high = np.array(points, np.float64).T
    return charts.Line(student, x, y, low, high)


def _loss_chart(rows: RunRows) -> dict[str, str]:
    title = "Distillation loss"
    if len(rows.training) == 0:
        return {"title": title, "text": "No training step has been logged yet.", "svg": ""}
    students, steps, losses = (column(rows.training, name) for name in ("student", "step", "loss"))
    lines = []
    for name in rows.students:
        mine = students == name
        if mine.any():
            order = np.argsort(steps[mine])
            lines.append(charts.Line(name, steps[mine][order].astype(np.float64), losses[mine][order]))
    svg = charts.line_chart(
        lines, name="chart-loss", title="Distillation loss over steps", x_label="step", y_label="loss", log_y=True
    )
    return {"title": title, "text": "over steps, logarithmic", "svg": svg}


def _size_chart(summary: dict[str, Any]) -> dict[str, str] | None:
    """Dice against size, where a family makes that a question."""
    points = []
    for name, student in summary["students"].items():
        score = student["scores"].get("dice_all")
        if student["parameters"] and score and score["mean"] is not None:
            points.append((name, float(student["parameters"]), score["mean"], score["low"], score["high"]))
    if len(points) < 2:
        return None
    title = "Dice against size"
    svg = charts.size_chart(points, name="chart-size", title=title, y_label="Dice with the truth")
    return {"title": title, "text": "students at their last scored step, 95 % intervals", "svg": svg}


def _overlays(storage: RunStorage, rows: RunRows) -> list[dict[str, str]]:
    """Videos under overlays/, named ``<student>-<case number>.mp4``, each with its ED and ES stills."""
    cases = {row["index"]: row for row in rows.cases.to_pylist()}
    items = []
    for name in [name for name in storage.list("overlays") if name.endswith(".mp4")][:MAX_OVERLAYS]:
        student, _, number = name.rsplit("/", 1)[-1].removesuffix(".mp4").rpartition("-")
        case = cases.get(int(number), {}) if number.isdigit() else {}
        stills = [(case.get(key) or [default])[0] for key, default in (("ed_frames", 0), ("es_frames", 8))]
        mp4 = storage.read(name)
        try:
            png = stills_png(mp4, stills, name=name)
        except ClipError as error:
            raise InputError(f"{storage.root}: {error}; delete it to have the report without it") from error
        items.append(
            {
                "student": student,
                "clip_id": case.get("clip_id") or f"case {number}",
                "frames": "{} and {}".format(*stills),
                "png": base64.b64encode(png).decode(),
                "mp4": base64.b64encode(mp4).decode(),
            }
        )
    return items
