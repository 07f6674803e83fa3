"""How long students wait for clips, and how near a run comes to its busiest stage, from the run's own timeline."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from echodfkd.config.file import load_config
from echodfkd.core.errors import RunError
from echodfkd.reporting import intervals
from echodfkd.reporting.rows import RunRows
from echodfkd.runtime.cluster.host_memory import kept_memory
from tests.benchmarks.alone import work_alone
from tests.benchmarks.job_run import actors_of, distil, spans_of
from tests.benchmarks.stream_vs_two_stage import write_videos
from tests.benchmarks.timing import Report, process_apart

TARGET_WAIT = 0.03
TARGET_WALL = 1.25
WARM_UP = 0.2
"""Share of the steps that is left out at the start: the stream fills, and allocators and caches with it."""
STAGES = ("source", "teacher", "students")
LIGHT = (
    "window={frames: 16, fps: 0, size: 56}",
    "source.kind=recorded",
    "train={global_batch: 16, checkpoint_every: 1000, engine: plain, num_cpus: 1, threads: 1}",
    "teacher={num_cpus: 1, max_actors: 1}",
    "evaluation.enabled=false",
)
"""The embedded teacher and one student, with a thread each; one commit at the end.
Clips are recorded: made by the phantom, they would take two cores longer than teacher and student."""
MOST_FILTERS = 32
DEMO = (
    "window.frames=16",
    "train={global_batch: 4, checkpoint_every: 1000, num_cpus: 2}",
    "evaluation.enabled=false",
    "students.c31={blocks: 3, layers: 1}",
    "students.c21={blocks: 2, layers: 1}",
)
"""The demo's clips, teacher and students."""


def light_run(folder: Path, *, videos: int = 64) -> list[str]:
    """Options of the run `LIGHT` with a student of four filters, on videos that are written below the folder."""
    write_videos(folder / "data", videos=videos, frames=40)
    return [*LIGHT, f"source.path={folder / 'data'}", _student(4)]


def _student(filters: int) -> str:
    return f"students.a={{blocks: 1, layers: 1, filters: {filters}}}"


def matching_student(alone: Callable[[int], dict[str, float]]) -> tuple[int, dict[str, float]]:
    """Filters of the smallest student that takes no less than the teacher for a batch, and the seconds of both.

    ``alone`` gives them for a student of so many filters, by role.
    """
    for filters in range(2, MOST_FILTERS + 1):
        found = alone(filters)
        if found["student"] >= found["teacher"]:
            return filters, found
    raise RunError(f"no student of up to {MOST_FILTERS} filters takes as long as the teacher on this machine")


def _alone(options: Sequence[str], filters: int, *, blocks: int) -> dict[str, float]:
    config = load_config(None, [*options, _student(filters), "name=alone"])
    return work_alone(config, blocks=blocks, core=min(os.sched_getaffinity(0)))


def waiting(steps: np.ndarray) -> float:
    """Share of the time of some steps, float64 (N, 2) of starts and ends in order, in which none of them ran.

    The first step counts from its start: what came before it belongs to what is left out.
    """
    gaps = np.maximum(0.0, steps[1:, 0] - np.maximum.accumulate(steps[:-1, 1]))
    return float(gaps.sum() / (steps[:, 1].max() - steps[0, 0]))


def steady(rows: RunRows) -> dict[str, Any]:
    """Waiting share and stages' busy shares of a run, without its first `WARM_UP` of the steps.

    A stage's busy share is its actors' time at work over the actors and the time; the wall over the busiest stage's own
    busy time is one over the largest.
    """
    steps = spans_of(rows, "students")
    steps = steps[int(WARM_UP * len(steps)) :]
    begin, end = float(steps[0, 0]), float(steps[:, 1].max())
    busy = {}
    for stage in STAGES:
        spans = spans_of(rows, stage).clip(begin, end)
        total = float((spans[:, 1] - spans[:, 0]).sum()) if stage != "students" else intervals.length(spans)
        busy[stage] = total / actors_of(rows, stage) / (end - begin)
    return {"wait": waiting(steps), "busy": busy, "wall_over_busiest": 1.0 / max(busy.values()), "steps": len(steps)}


def data_wait(report: Report, *, quick: bool) -> dict[str, Any]:
    """Share of a student's step spent waiting for clips, and wall time over the busiest stage's busy time (Ray)."""
    found: dict[str, list[dict[str, Any]]] = {"matched": [], "demo": []}
    with tempfile.TemporaryDirectory() as folder:
        light = light_run(Path(folder))
        with process_apart(kept_memory()) as process:  # as the run's own workers are
            filters, alone = matching_student(
                lambda filters: process.submit(_alone, light, filters, blocks=3 if quick else 12).result()
            )
        matched = [*light, _student(filters)]
        plans = [("matched", matched, 20 if quick else 160)] * (1 if quick else 3)
        plans.append(("demo", list(DEMO), 20 if quick else 80))
        for number, (plan, options, steps) in enumerate(plans):
            rows = distil([*options, f"train.steps={steps}", f"seed={number}"], storage=folder, name=f"run{number}")
            found[plan].append(steady(rows))
    milliseconds = {role: round(1000 * seconds, 1) for role, seconds in alone.items()}
    report(
        f"matched: a student of {filters} filters takes {milliseconds['student']} ms a batch alone on a core, the"
        f" teacher {milliseconds['teacher']} ms"
    )
    report(f"{'run':<10} {'waiting':>8} {'wall / busiest':>15}   busy share of each stage's actors")
    for plan, several in found.items():
        for one in several:
            shares = ", ".join(f"{stage} {100 * share:.0f} %" for stage, share in one["busy"].items())
            report(f"{plan:<10} {100 * one['wait']:>6.1f} % {one['wall_over_busiest']:>15.2f}   {shares}")
    median = {
        plan: {key: float(np.median([one[key] for one in several])) for key in ("wait", "wall_over_busiest")}
        for plan, several in found.items()
    }
    wait, wall = median["matched"]["wait"], max(one["wall_over_busiest"] for one in median.values())
    return {
        "value": round(wait, 4),
        "unit": "share of a student's time without a batch, teacher and student matched, median of runs",
        "target": TARGET_WAIT,
        "holds": wait <= TARGET_WAIT and wall <= TARGET_WALL,
        "wall_over_busiest": {plan: round(one["wall_over_busiest"], 3) for plan, one in median.items()},
        "wall_target": TARGET_WALL,
        "alone_ms": {"filters": filters, **milliseconds},
        "runs": found,
    }
