"""The words and tables of the report: which metrics stand where, how numbers are written, what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from echodfkd.reporting import charts, intervals
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.summary import plan_slots, spans_by_actor

MAX_QUARANTINE_ROWS = 50


@dataclass(frozen=True)
class Metric:
    """A column of the headline table; ``arrow`` points to the better side."""

    name: str
    label: str
    group: str
    arrow: str
    digits: int
    help: str


METRICS = (
    Metric("dice_all", "Dice", "overlap", "↑", 3, "Dice with the truth, mean over all annotated frames."),
    Metric("dice_ed", "Dice ED", "overlap", "↑", 3, "Dice with the truth at end-diastole."),
    Metric("dice_es", "Dice ES", "overlap", "↑", 3, "Dice with the truth at end-systole."),
    Metric("iou_all", "IoU", "overlap", "↑", 3, "Intersection over union with the truth, all annotated frames."),
    Metric("hd95_all_mm", "HD95, mm", "overlap", "↓", 2, "95th percentile of the borders' distance, all frames."),
    Metric("hd95_all_px", "HD95, px", "overlap", "↓", 2, "Likewise, in pixels: the scale is not known."),
    Metric("assd_all_mm", "ASSD, mm", "overlap", "↓", 2, "Mean distance of the borders, all annotated frames."),
    Metric("assd_all_px", "ASSD, px", "overlap", "↓", 2, "Likewise, in pixels."),
    Metric("dice_teacher", "to teacher", "overlap", "↑", 3, "Dice with the teacher's mask: how well it imitates."),
    Metric("dice_myocardium", "myocardium", "chambers", "↑", 3, "Dice with the truth over all annotated frames."),
    Metric("dice_la", "LA", "chambers", "↑", 3, "Likewise, left atrium."),
    Metric("dice_rv", "RV", "chambers", "↑", 3, "Likewise, right ventricle; 1 where neither shows any."),
    Metric("dice_ra", "RA", "chambers", "↑", 3, "Likewise, right atrium."),
    Metric("temporal_dice", "frame to frame", "time", "", 3, "Dice of a mask with the next frame's."),
    Metric("afd_ed", "aFD ED", "time", "↓", 2, "Frames off at ED; the reference picks the beat (oracle-assisted)."),
    Metric("afd_es", "aFD ES", "time", "↓", 2, "Frames off at ES, found likewise."),
    Metric("ed_error_frames", "blind ED", "time", "↓", 2, "Frames from ED to the nearest blind detection."),
    Metric("es_error_frames", "blind ES", "time", "↓", 2, "Frames from ES to the nearest blind detection."),
    Metric("ed_precision", "ED precision", "time", "↑", 2, "Share of blind EDs within 2 frames of an ED."),
    Metric("ed_recall", "ED recall", "time", "↑", 2, "Share of EDs with a blind detection within 2 frames."),
    Metric("es_precision", "ES precision", "time", "↑", 2, "Likewise, end-systole."),
    Metric("es_recall", "ES recall", "time", "↑", 2, "Likewise, end-systole."),
    Metric("phase_ed_error_frames", "phase ED", "time", "↓", 2, "Blind ED in the phase head's curve."),
    Metric("phase_es_error_frames", "phase ES", "time", "↓", 2, "Blind ES in the phase head's curve."),
    Metric("phase_pearson", "phase r", "time", "↑", 3, "Correlation of the phase head with the truth's LV area."),
    Metric("ef_pearson", "EF r", "function", "↑", 3, "Pearson correlation of the naive area EF with the known EF."),
    Metric("ef_mae", "EF error", "function", "↓", 1, "Mean error of the naive area EF in points, biased by design."),
    Metric("ef_area_length_pearson", "EF A-L r", "function", "↑", 3, "The same of the area-length EF, true ED and ES."),
    Metric("ef_area_length_mae", "EF A-L error", "function", "↓", 1, "Mean error of the area-length EF in points."),
    Metric("ef_blind_mae", "EF blind error", "function", "↓", 1, "The same at blind ED and ES: nothing is given."),
    Metric("ef_head_abs_error", "EF head", "function", "↓", 1, "Mean error of the EF head in points."),
    Metric("ece", "ECE", "calibration", "↓", 4, "Calibration error of the soft mask over all known pixels."),
    Metric("judge_score", "judge", "judge", "↑", 3, "The auxiliary model's rating, which sees no truth."),
    Metric("judge_unmasked", "no mask", "judge", "", 3, "Control: its rating of the video alone."),
    Metric("judge_inverse", "inverse", "judge", "", 3, "Control: its rating of everything but the mask."),
    Metric("judge_shifted", "shifted", "judge", "", 3, "Control: its rating of the mask, moved by a quarter."),
    Metric("judge_random", "random", "judge", "", 3, "Control: its rating of a random mask of equal area."),
)  # fmt: skip
"""All columns that the table can have, in order; a run shows those it measured."""


def headline_table(rows: RunRows, summary: dict[str, Any]) -> dict[str, Any]:
    """Students and teacher against metrics: mean, interval and n per cell."""
    models = [*summary["students"].items()]
    scored = [s["scores"] for _, s in models] + [summary["teacher"]["scores"]]
    shown = [metric for metric in METRICS if any(metric.name in scores for scores in scored)]
    first = {metric.name for i, metric in enumerate(shown) if i == 0 or shown[i - 1].group != metric.group}
    labels = dict.fromkeys(metric.group for metric in shown)
    lines = []
    for name, student in models:
        steps = rows.scored_steps(name)
        if steps:
            about = [f"{student['parameters']:,} weights"] if student["parameters"] else []
            about.append(f"step {steps[-1]:,}")
            cells = _cells(shown, first, student["scores"])
            lines.append({"name": name, "about": about, "cells": cells, "is_teacher": False})
    if summary["teacher"]["scores"]:
        cells = _cells(shown, first, summary["teacher"]["scores"])
        lines.append({"name": "teacher", "about": [], "cells": cells, "is_teacher": True})
    return {
        "groups": [{"label": g, "width": sum(metric.group == g for metric in shown)} for g in labels],
        "metrics": [{**vars(metric), "first": metric.name in first} for metric in shown],
        "rows": lines,
    }


def _cells(shown: list[Metric], first: set[str], scores: dict[str, Any]) -> list[dict[str, Any]]:
    cells = []
    for metric in shown:
        score = scores.get(metric.name)
        cell: dict[str, Any] = {"first": metric.name in first, "mean": ""}
        if score is not None and score["mean"] is not None:
            digits = metric.digits
            cell["mean"] = f"{score['mean']:.{digits}f}"
            known = score["low"] is not None
            cell["interval"] = f"{score['low']:.{digits}f} … {score['high']:.{digits}f}" if known else "no interval"
            cell["n"] = score["n"]
        cells.append(cell)
    return cells


def student_table(rows: RunRows, summary: dict[str, Any]) -> dict[str, Any]:
    """Size, updates, and what a student takes: memory on its worker and time of an update."""
    lines = []
    for name, student in summary["students"].items():
        memory, seconds = student["memory_mb"], student["step_s"]
        rank = rows.memory.get(name, {}).get("rank")
        lines.append(
            {
                "name": name,
                "parameters": f"{student['parameters']:,}" if student["parameters"] else "–",
                "steps": f"{student['steps']:,}",
                "about": "stopped early" if student["stopped_early"] else "",
                "step": f"{1000 * seconds:,.1f}" if seconds is not None else "–",
                "state": f"{memory['state']:,.1f}" if memory else "–",
                "activations": f"{memory['activations']:,.1f}" if memory else "–",
                "worker": "every" if rank is None else str(rank),
            }
        )
    return {"rows": lines}


def missing_scores(rows: RunRows) -> list[str]:
    """A sentence for everything that a reader looks for in the table and does not find."""
    if len(rows.scores) == 0:
        evaluation = rows.config.get("evaluation", {})
        if evaluation.get("enabled") is False:
            return ["This run was not evaluated (evaluation.enabled is false), so there are no scores."]
        return ["No scores yet: no published checkpoint has been evaluated."]
    sentences = []
    metrics = set(rows.scores["metric"].to_pylist())
    if "judge_score" not in metrics:
        sentences.append("No judge rated this run, so there is no judge score.")
    if "dice_all" not in metrics:
        sentences.append("The cases carry no truth masks, so there is no Dice with the truth.")
    for name in rows.students:
        if not rows.scored_steps(name):
            sentences.append(f"No checkpoint of student {name} has been evaluated.")
    return sentences


def notes(rows: RunRows, summary: dict[str, Any]) -> list[dict[str, str]]:
    """How the run stands, in one or two sentences at the top of the page."""
    counts, plan = summary["ledger"], plan_slots(rows)
    if rows.run.get("stopped"):
        done = f"{plan - counts['lost']:,} of {plan:,} slots are trained and published"
        return [{"kind": "open", "text": f"This run was {rows.run['stopped']}; {done}."}]
    if rows.run.get("error"):
        return [{"kind": "bad", "text": f"This run failed: {rows.run['error']}"}]
    if not rows.run:
        done = f"{plan - counts['lost']:,} of {plan:,} slots are trained and published so far"
        return [
            {"kind": "open", "text": f"This run has not ended, or failed on the way (it holds no run.json): {done}."}
        ]
    if counts["lost"] or counts["repeated"]:
        return [{"kind": "bad", "text": f"This run has ended, but {ledger_sentence(rows, summary)}"}]
    early = " Early stopping has ended all students." if rows.manifests and rows.manifests[-1].ended else ""
    return [{"kind": "good", "text": f"This run is complete: {ledger_sentence(rows, summary)}{early}"}]


def ledger_sentence(rows: RunRows, summary: dict[str, Any]) -> str:
    """What the ledger proves."""
    counts, plan = summary["ledger"], plan_slots(rows)
    if plan == 0:
        return "no plan is known."
    if counts["lost"] == 0 and counts["repeated"] == 0:
        return f"each of the {plan:,} slots of the plan was trained exactly once."
    parts = []
    if counts["lost"]:
        parts.append(f"{counts['lost']:,} of {plan:,} slots of the plan are not trained")
    if counts["repeated"]:
        parts.append(f"{counts['repeated']:,} ledger rows repeat a slot")
    return " and ".join(parts) + "."


def quarantine_table(rows: RunRows) -> dict[str, Any]:
    """The quarantined indices and why."""
    found = sorted(rows.quarantine.to_pylist(), key=lambda row: (row["slot"], row["index"]))
    if not found:
        return {"rows": [], "text": "No clip was quarantined."}
    shown = found[:MAX_QUARANTINE_ROWS]
    text = "These clips could not be used; each slot drew another clip in place of a bad one."
    if len(found) > len(shown):
        text += f" The first {len(shown)} of {len(found):,} are shown."
    return {"rows": shown, "text": text}


def timeline(rows: RunRows, summary: dict[str, Any]) -> dict[str, Any]:
    """The chart of stages, the table under it and the sentence on their overlap."""
    stages = spans_by_actor(rows)
    if not stages:
        return {"text": "No work of any stage has been logged yet.", "svg": ""}
    starts = min(work[:, 0].min() for actors in stages.values() for work in actors.values())
    ends = max(work[:, 1].max() for actors in stages.values() for work in actors.values())
    total = max(ends - starts, 1e-9)
    lines = []
    for stage, work in summary["pipeline"]["stages"].items():
        busy = work["busy_s"]
        lines.append(
            {
                "stage": stage,
                "colour": charts.STAGE_COLOURS.get(stage, "#777777"),
                "actors": work["actors"],
                "clips": f"{work['clips']:,}",
                "frames": f"{work['frames']:,}",
                "busy": f"{busy:,.1f}",
                "share": f"{100 * busy / (total * work['actors']):.0f} %",
                "rate": f"{work['frames'] / busy:,.0f}" if busy > 0 else "–",
            }
        )
    svg = charts.timeline_chart(stages, name="timeline", title="Work of each stage's actors over time")
    return {"text": _overlap_sentence(rows, total), "svg": svg, "rows": lines, "max_actors": charts.MAX_ACTORS}


def _overlap_sentence(rows: RunRows, total: float) -> str:
    """How long several stages worked at once."""
    work = {
        stage: intervals.union(np.concatenate(list(actors.values()))) for stage, actors in spans_by_actor(rows).items()
    }
    shared = intervals.shared_seconds(work)
    many = sum(seconds for count, seconds in shared.items() if count >= 2)
    return (
        f"The run's work spans {total:,.1f} s. Two or more of its {len(work)} stages were at work at the same"
        f" time for {many:,.1f} s of them ({100 * many / total:.0f} %), all {len(work)} for"
        f" {shared[len(work)]:,.1f} s ({100 * shared[len(work)] / total:.0f} %)."
    )


def facts(rows: RunRows, summary: dict[str, Any]) -> list[dict[str, str]]:
    """What was run, in the order a reader asks."""
    config, run = rows.config, rows.run
    source, window, train = config.get("source", {}), config.get("window", {}), config.get("train", {})
    machine = run.get("machine", "")
    if isinstance(machine, dict):
        machine = ", ".join(f"{key} {value}" for key, value in machine.items())
    students = ", ".join(
        f"{name} ({s['parameters']:,} parameters)" if s["parameters"] else name
        for name, s in summary["students"].items()
    )
    engine = train.get("engine", "")
    if engine == "deepspeed":
        engine = f"deepspeed, ZeRO stage {train.get('zero_stage', 0)}"
    frames, fps, side = (window.get(key, "?") for key in ("frames", "fps", "size"))
    values = {
        "Teacher": summary["teacher"]["id"],
        "Students": students,
        "Clips": f"{source.get('kind', '')} {source.get('path', '')}".strip(),
        "Window": f"{frames} frames at {fps} fps, {side} x {side} pixels",
        "Plan": _plan_text(rows),
        "Engine": f"{engine}, {train.get('workers', 1)} worker(s), {train.get('precision', '')}",
        "Seed": str(summary["seed"]),
        "Config hash": summary["config_hash"],
        "Version": summary["version"],
        "Machine": str(machine),
    }
    return [{"label": label, "value": value or "not recorded yet"} for label, value in values.items()]


def _plan_text(rows: RunRows) -> str:
    train = rows.config.get("train", {})
    most, batch = train.get("steps", 0), train.get("global_batch", 0)
    ended = bool(rows.manifests) and rows.manifests[-1].ended
    done = f"{rows.manifests[-1].step:,} of at most {most:,}" if ended else f"{most:,}"
    return f"{done} steps of {batch} clips = {plan_slots(rows):,} slots"


def config_yaml(rows: RunRows) -> str:
    """The config as it was read."""
    return yaml.safe_dump(rows.config, sort_keys=False)
