"""The end of a run in a terminal: a small table of scores, and the counts of the ledger."""

from __future__ import annotations

from typing import Any

from echodfkd.reporting.teacher_facts import teacher_sentences

_COLUMNS = (
    ("Dice", "dice_all"),
    ("Dice ED", "dice_ed"),
    ("Dice ES", "dice_es"),
    ("judge", "judge_score"),
)


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Lines of plain text for summary.json's content: mean [95 % interval] per model and metric.

    A score that a run does not have (no judge, no truth, no evaluation) is a dash.
    """
    rows = [("model", "weights", *(title for title, _ in _COLUMNS))]
    rows.append(("teacher", "", *_scores(summary["teacher"]["scores"])))
    for name, student in summary["students"].items():
        rows.append((name, f"{student['parameters']:,}", *_scores(student["scores"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += _cost_lines(summary["students"])
    ledger = summary["ledger"]
    to_come = f" {ledger['to_come']} to come," if ledger["to_come"] else ""
    lines.append(
        f"{ledger['clips']} clips trained,{to_come} {ledger['lost']} lost, {ledger['repeated']} repeated,"
        f" {ledger['quarantined']} quarantined"
    )
    return lines + teacher_sentences(summary)


def _cost_lines(students: dict[str, dict[str, Any]]) -> list[str]:
    """Updates, and the time of one, of every student whose time is known or that stopped early."""
    rows = []
    for name, student in students.items():
        seconds = student.get("step_s")
        if seconds is None and not student.get("stopped_early"):
            continue
        stopped = " (stopped early)" if student.get("stopped_early") else ""
        time = "" if seconds is None else f"{1000 * seconds:,.1f} ms an update"
        rows.append((name, f"{student['steps']:,} updates{stopped}", time))
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "",
        "time each student took",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        "",
    ]


def _scores(scores: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    return tuple(_cell(scores.get(metric)) for _, metric in _COLUMNS)


def _cell(score: dict[str, Any] | None) -> str:
    if not score or score["mean"] is None:
        return "-"
    return f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}] n={score['n']}"
