"""Rows -> ``summary.json``: a contract that other programs read; later versions only add keys.

Every score, count and duration is recomputed from the rows of the run folder. Only values that no row
holds (wall time, first step, peak memory, parameter counts) is taken from run.json; a value that is not
known (yet) is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from echodfkd.core import intervals
from echodfkd.core.records import JUDGE_STEP
from echodfkd.core.redaction import dump_json
from echodfkd.evaluation.against_truth import RELIABILITY
from echodfkd.metrics.cardiac import mean_absolute_error, pearson_r
from echodfkd.metrics.comparison import bias, intraclass_correlation, lower_limit, upper_limit
from echodfkd.metrics.summary import Interval, bootstrap_mean, bootstrap_pairs
from echodfkd.reporting.best import best_checkpoint
from echodfkd.reporting.comparisons import compare_students, strata_scores
from echodfkd.reporting.generator_facts import generator_facts, privacy_facts
from echodfkd.reporting.rows import RunRows, column, read_rows
from echodfkd.reporting.teacher_facts import cache_facts, dropped_clips, is_stage, routed_clips
from echodfkd.storage.files import RunStorage

STAGES = ("source", "generator", "teacher", "students", "evaluator")
"""Stages in the order of the stream; others follow in the order of their names."""

EF_METRICS = {
    "ef_area": "ef",
    "ef_area_length": "ef_area_length",
    "ef_simpson": "ef_simpson",
    "ef_blind": "ef_blind",
    "published_ef_area": "published_ef",
    "judge_ef": "judge_ef",
}
"""Ejection fractions of cases -> how the names of their agreement with the known EF begin. They are no scores
themselves: a mean over patients says nothing of a network."""

_AGREEMENT = {
    "pearson": pearson_r,
    "mae": mean_absolute_error,
    "bias": bias,
    "loa_low": lower_limit,
    "loa_high": upper_limit,
    "icc": intraclass_correlation,
}


def build_summary(storage: RunStorage) -> dict[str, Any]:
    """Recompute ``summary.json`` from a run folder, whole or half-finished.

    Raises:
        InputError: see `rows.read_rows`.
    """
    return summarise(read_rows(storage))


def write_summary(storage: RunStorage) -> dict[str, Any]:
    """`build_summary`, also stored as ``summary.json``."""
    summary = build_summary(storage)
    storage.write("summary.json", dump_json(summary, indent=2))
    return summary


def summarise(rows: RunRows) -> dict[str, Any]:
    """The summary of rows already read."""
    seed = int(rows.config.get("seed") or 0)
    facts = {**rows.identity, **rows.run}
    return {
        "run": str(rows.config.get("name", "")),
        "version": str(facts.get("version", "")),
        "config_hash": str(facts.get("config_hash", "")),
        "seed": seed,
        "students": {
            name: {
                **rows.sizes[name],
                "steps": trained_steps(rows, name),
                "stopped_early": bool(rows.manifests) and rows.manifests[-1].stopped_at(name) is not None,
                "step_s": median_step_s(rows, name),
                "best": best_checkpoint(rows, name),
                "scores": final_scores(rows, name, seed=seed),
                "strata": strata_scores(rows, name, seed=seed),
            }
            for name in rows.students
        },
        "teacher": {
            "id": str(facts.get("teacher_id", "")),
            "scores": final_scores(rows, "", seed=seed),
            "dropped": dropped_clips(rows),
            "routes": routed_clips(rows, strata_scores(rows, "", seed=seed)),
        },
        "privacy": privacy_facts(rows),
        "judge": _judge_reading(rows, seed=seed),
        "comparisons": compare_students(rows, seed=seed),
        "source_notes": texts(facts.get("source_notes")),
        "ledger": ledger_counts(rows),
        "pipeline": _pipeline(rows),
    }


def texts(value: object) -> list[str]:
    """A list of texts in a file that may be a stranger's."""
    return [str(text) for text in value] if isinstance(value, list) else []


def _judge_reading(rows: RunRows, *, seed: int) -> dict[str, Any]:
    """The judge's readings of the videos, without any mask; no scores if it only rates masks."""
    if ("", JUDGE_STEP) not in rows.score_groups:
        return {"scores": {}}
    found = scores_at(rows, "", JUDGE_STEP, seed=seed)
    return {"scores": {metric: interval.to_json() for metric, interval in found.items()}}


def final_scores(rows: RunRows, student: str, *, seed: int) -> dict[str, dict[str, float | int | None]]:
    """Metric -> mean, interval and n over cases, at the student's last scored step ("" is the teacher)."""
    steps = rows.scored_steps(student)
    found = scores_at(rows, student, steps[-1], seed=seed) if steps else {}
    return {metric: interval.to_json() for metric, interval in found.items()}


def scores_at(rows: RunRows, student: str, step: int, *, seed: int) -> dict[str, Interval]:
    """Metric -> interval over cases, of one student at one step. EF metrics need cases with a known EF."""
    table = rows.scores.take(rows.score_groups[student, step])
    metrics, values, clips = column(table, "metric"), column(table, "value"), column(table, "clip_id")
    found = {
        str(metric): bootstrap_mean(values[metrics == metric], seed=seed)
        for metric in sorted(set(metrics) - set(EF_METRICS))
        if not str(metric).startswith(RELIABILITY)
    }
    truth = dict(zip(column(rows.cases, "clip_id"), column(rows.cases, "ef_percent"), strict=True))
    wanted = np.array([truth.get(clip, np.nan) for clip in clips], np.float64)
    for metric, prefix in EF_METRICS.items():
        chosen = (metrics == metric) & np.isfinite(wanted)
        if chosen.any():
            for name, statistic in _AGREEMENT.items():
                found[f"{prefix}_{name}"] = bootstrap_pairs(statistic, values[chosen], wanted[chosen], seed=seed)
    return found


def ledger_counts(rows: RunRows) -> dict[str, int]:
    """Counts of the plan's slots.

    A commit trains every student of the family on the same rows, so that one row per slot is exactly
    right: ``clips`` are the slots trained, ``to_come`` those of updates that no checkpoint has yet, ``lost`` the
    others of the plan that were not trained, ``repeated`` the rows beyond a slot's first. A run that has ended by
    itself has none to come. Evaluation cases that could not be used (slot -1) are no part of the plan, and not counted.
    """
    slots = np.unique(column(rows.ledger, "slot"))
    trained, plan = len(slots), plan_slots(rows)
    ended = bool(rows.manifests) and rows.manifests[-1].ended  # in arrival order its slots need not be the first ones
    planned = slots >= 0 if ended else (slots >= 0) & (slots < plan)
    bad = zip(column(rows.quarantine, "slot"), column(rows.quarantine, "index"), strict=True)
    quarantined = {(slot, index) for slot, index in bad if slot >= 0}
    missing, step = plan - int(planned.sum()), rows.manifests[-1].step if rows.manifests else 0
    unfinished = not rows.run or bool(rows.run.get("stopped") or rows.run.get("error"))
    later = plan - step * int((rows.config.get("train") or {}).get("global_batch") or 0)
    to_come = min(missing, max(0, later)) if unfinished else 0
    return {
        "clips": trained,
        "lost": missing - to_come,
        "to_come": to_come,
        "repeated": len(rows.ledger) - trained,
        "quarantined": len(quarantined),
    }


def plan_slots(rows: RunRows) -> int:
    """Slots of the plan: from run.json, or from the config while the run has not ended.

    If early stopping has ended all students, the plan is the slots they have consumed.
    """
    if rows.manifests and rows.manifests[-1].ended:
        return rows.manifests[-1].step * int(rows.config.get("train", {}).get("global_batch", 0))
    if rows.run.get("plan_slots") is not None:
        return int(rows.run["plan_slots"])
    train = rows.config.get("train") or {}
    return int(train.get("steps") or 0) * int(train.get("global_batch") or 0)


def spans_by_actor(rows: RunRows) -> dict[str, dict[str, np.ndarray]]:
    """Stage -> actor -> float64 (N, 2) intervals of work, stages in the order of the stream."""
    stages, actors = column(rows.spans, "stage"), column(rows.spans, "actor")
    times = np.stack([column(rows.spans, "start"), column(rows.spans, "end")], axis=1).astype(np.float64)
    order = sorted(filter(is_stage, set(stages)), key=_place)
    return {
        stage: {actor: times[(stages == stage) & (actors == actor)] for actor in sorted(set(actors[stages == stage]))}
        for stage in order
    }


def _place(stage: str) -> tuple[int, bool, str]:
    """Sort key of a stage: the members of an ensemble come before their teacher."""
    first, _, member = stage.partition(".")
    return STAGES.index(first) if first in STAGES else len(STAGES), not member, stage


def _pipeline(rows: RunRows) -> dict[str, Any]:
    """Durations and the work of each stage. ``busy_s`` sums, over actors, the time an actor was at work.

    The teacher's stage also has `teacher_facts.cache_facts`, a generator's `generator_facts.generator_facts`.
    """
    names = column(rows.spans, "stage")
    clips, frames = column(rows.spans, "clips"), column(rows.spans, "frames")
    stages = {}
    for stage, actors in spans_by_actor(rows).items():
        busy_s = sum(intervals.length(work) for work in actors.values())
        count = int(clips[names == stage].sum())
        stages[stage] = {
            "busy_s": busy_s,
            "clips": count,
            "frames": int(frames[names == stage].sum()),
            **_actors(actors),
            **cache_facts(rows, stage),
            **generator_facts(rows, stage, clips=count, busy_s=busy_s),
        }
    start, end = column(rows.spans, "start")[names == "students"], column(rows.spans, "end")[names == "students"]
    return {
        "wall_s": rows.run.get("wall_s"),
        "steady_s": float(end.max() - start.min()) if len(start) else None,
        "first_step_s": rows.run.get("first_step_s"),
        "peak_memory_mb": rows.run.get("peak_memory_mb"),
        "stages": stages,
    }


def _actors(actors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Actors of a stage: the most that were there at the same time, the seconds of all, their nodes, each counted once.

    An actor is there from its first piece of work to the end of its last. A new segment or the loss of a machine gives
    new ones, so that their number over a run says nothing.
    """
    there = np.array([(work[:, 0].min(), work[:, 1].max()) for work in actors.values()])
    return {
        "actors": intervals.most_at_once(there),
        "actor_s": float((there[:, 1] - there[:, 0]).sum()),
        "nodes": len({(["", *name.rsplit("-", 2)])[-2] for name in actors}),
    }


def trained_steps(rows: RunRows, student: str) -> int:
    """Published updates of a student: up to the last commit, or until it stopped; 0 before the first commit."""
    return max((m.steps_of(student) for m in rows.manifests if student in m.students), default=0)


def median_step_s(rows: RunRows, student: str) -> float | None:
    """Median seconds that one update of a student keeps its worker busy; None if unknown."""
    busy = column(rows.training, "busy_s")[column(rows.training, "student") == student]
    known = busy[np.isfinite(busy)]
    return float(np.median(known)) if len(known) else None
