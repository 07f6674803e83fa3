"""The first two sentences of a run's page: what came out, and what to do next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from echodfkd.reporting.rows import RunRows
from echodfkd.storage.untrusted import parse_json

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
EMPTY = 0.05
"""A student whose mean Dice is below it draws next to nothing."""
POOR = 0.1
"""A student is poor if its mean Dice is so far below its teacher's."""
TEACHER_SLACK = 0.05
"""A teacher may be so far below its own held-out score: those were other cases."""
FEW_CASES = 10
_CARDS = {"embedded": "embedded_teacher.json", "embedded_wild": "embedded_wild_teacher.json"}


def verdict(rows: RunRows, summary: dict[str, Any]) -> list[str]:
    """Two sentences; the second is about the first thing that stands in the way of using a student."""
    scored = {name: of["scores"].get("dice_all") for name, of in summary["students"].items()}
    known = {name: score for name, score in scored.items() if score and score["mean"] is not None}
    if not known:
        return [_without_scores(rows, summary), _next_without_scores(rows, summary)]
    best = max(known, key=lambda name: known[name]["mean"])
    score, teacher = known[best], (summary["teacher"]["scores"].get("dice_all") or {}).get("mean")
    students = "The student" if len(known) == 1 else f"The best of {len(known)} students,"
    sure = f" (95 % interval {score['low']:.3f} to {score['high']:.3f})" if score["n"] > 1 else ""
    cases = f"{score['n']:,} held-out case{'s' * (score['n'] != 1)}"
    beside = "" if teacher is None else f"; its teacher reaches {teacher:.3f}"
    said = f"{students} {best} reaches a Dice of {score['mean']:.3f}{sure} on {cases}{beside}."
    return [said, _next(rows, summary, known, best)]


def _next(rows: RunRows, summary: dict[str, Any], known: dict[str, Any], best: str) -> str:
    unfinished = _unfinished(rows, summary)
    if unfinished:
        return unfinished
    teacher = (summary["teacher"]["scores"].get("dice_all") or {}).get("mean")
    own = held_out_dice(rows)
    if teacher is not None and own is not None and teacher < own - TEACHER_SLACK:
        return (
            f"The teacher is below its own held-out Dice of {own:.3f}: its students can hardly be better than it, so"
            " check window.size, source and teacher.weights before anything else."
        )
    empty = [name for name, score in known.items() if score["mean"] < EMPTY]
    if empty:
        return f"{_listed(empty)} {_have(empty)} next to no overlap with the truth yet: train longer (train.steps)."
    if teacher is not None and known[best]["mean"] < teacher - POOR:
        return (
            "That is far below the teacher: train longer (train.steps), or take a larger student (students.NAME.blocks,"
            " filters), and look at the worst cases below."
        )
    if known[best]["n"] < FEW_CASES:
        return "These are few cases: set evaluation.cases to 24 or more before you compare students."
    return (
        f"To use it, run echodfkd predict VIDEO --student {summary['run']} --name {best} in the folder that holds this"
        " run, and look at the worst cases below first."
    )


def _unfinished(rows: RunRows, summary: dict[str, Any]) -> str:
    if not summary["ledger"]["to_come"]:
        return ""
    if rows.run.get("error"):
        return "The run failed before its end: mend what the sentence above names, and run the same command again."
    if rows.run:
        return "The run was stopped before its end: the same command goes on with it."
    return (
        "The run has not ended: these are the scores so far, and `echodfkd report --follow` keeps this page up to date."
    )


def _without_scores(rows: RunRows, summary: dict[str, Any]) -> str:
    clips, count = summary["ledger"]["clips"], len(summary["students"])
    trained = f"{count} student{'s' * (count != 1)} {'has' if count == 1 else 'have'} trained on {clips:,} clips"
    return f"{trained}, and no Dice with the truth is known."


def _next_without_scores(rows: RunRows, summary: dict[str, Any]) -> str:
    if unfinished := _unfinished(rows, summary):
        return unfinished
    if len(rows.scores):
        return "The cases carry no truth: compare with the teacher's masks (Dice with it, below), or score other cases."
    return "Score the checkpoints with echodfkd evaluate evaluate.run=RUN evaluate.out=FOLDER."


def held_out_dice(rows: RunRows) -> float | None:
    """The score of a shipped teacher on its own held-out cases, at the size nearest to the run's; None of others."""
    teacher = rows.config.get("teacher") or {}
    kind, size = str(teacher.get("kind", "embedded")), (rows.config.get("window") or {}).get("size", 56)
    if kind not in _CARDS or teacher.get("weights") or not isinstance(size, int):
        return None
    card = WEIGHTS / _CARDS[kind]
    held_out = parse_json(card.read_bytes(), str(card))["held_out"]
    sizes = {int(name): found for name, found in held_out.items() if name.isdigit() and "dice_all" in found}
    return float(sizes[min(sizes, key=lambda side: abs(side - size))]["dice_all"]) if sizes else None


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
