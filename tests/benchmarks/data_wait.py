"""How long students wait for clips, and a run's wall time over its busiest stage, from the spans the run recorded."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core import intervals
from echodfkd.core.errors import RunError
from echodfkd.reporting.rows import RunRows
from echodfkd.runtime.cluster.host_memory import kept_memory
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.training.objective import own_totals
from echodfkd.training.step import accumulate_gradients, update
from echodfkd.training.student import make_student
from tests.benchmarks.job_run import distil, num_actors, spans_of
from tests.benchmarks.stream_vs_two_stage import write_videos
from tests.benchmarks.timing import Report, process_apart

TARGET_WAIT = 0.03
TARGET_WALL = 1.25
WARM_UP = 0.2
"""Share of the steps that is excluded at the start, while the stream, the allocators and the caches fill."""
STAGES = ("source", "teacher", "students")
LIGHT = (
    "window={frames: 16, fps: 0, size: 56}",
    "source.kind=recorded",
    "train={global_batch: 16, checkpoint_every: 1000, engine: plain, num_cpus: 1, threads: 1}",
    "teacher={num_cpus: 1, max_actors: 1}",
    "evaluation.enabled=false",
)
"""The embedded teacher and one student, one thread each, and one checkpoint at the end. Clips are recorded: rendering
phantoms would take longer on two cores than teaching and training."""
MAX_FILTERS = 32
DEMO = (
    "window.frames=16",
    "train={global_batch: 4, checkpoint_every: 1000, num_cpus: 2}",
    "evaluation.enabled=false",
    "students.c31={blocks: 3, layers: 1}",
    "students.c21={blocks: 2, layers: 1}",
)
"""The demo's clips, teacher and students."""


def light_run(folder: Path, *, videos: int = 64) -> list[str]:
    """Options of a `LIGHT` run on videos that are written below ``folder``. They name no student yet."""
    write_videos(folder / "data", videos=videos, frames=40)
    return [*LIGHT, f"source.path={folder / 'data'}"]


def student_option(filters: int) -> str:
    """The override that adds a student of one block and one layer."""
    return f"students.a={{blocks: 1, layers: 1, filters: {filters}}}"


def matching_student(seconds_with: Callable[[int], dict[str, float]]) -> tuple[int, dict[str, float]]:
    """Find the smallest student that is no faster than the teacher.

    Args:
        seconds_with: number of filters -> seconds per batch of ``teacher`` and ``student``.

    Returns:
        Its number of filters, and the seconds of both.
    """
    for filters in range(2, MAX_FILTERS + 1):
        found = seconds_with(filters)
        if found["student"] >= found["teacher"]:
            return filters, found
    raise RunError(f"no student of up to {MAX_FILTERS} filters takes as long as the teacher on this machine")


def isolated_seconds(options: Sequence[str], filters: int, *, blocks: int) -> dict[str, float]:
    """`stage_seconds` of a run with a student of so many filters, on the first core of this process."""
    config = load_config(None, [*options, student_option(filters), "name=isolated"])
    return stage_seconds(config, blocks=blocks, core=min(os.sched_getaffinity(0)))


def stage_seconds(config: RunConfig, *, blocks: int, core: int) -> dict[str, float]:
    """Median seconds per micro-batch of the run's ``teacher`` and its ``student``s, one after the other on one core."""
    teacher, source, rules = load_teacher(config), training_source(config), slot_rules(config)
    size, device = config.micro_batch, torch.device("cpu")
    students = [make_student(config, name, device, None) for name in config.students]
    times: dict[str, list[float]] = {"teacher": [], "student": []}
    with one_core(core):
        for step in range(blocks):
            block = make_block(source, range(step * size, (step + 1) * size), rules, actor="isolated")
            start = time.perf_counter()
            batch = teach_block(teacher, block, lambda: source, rules, actor="isolated")
            times["teacher"].append(time.perf_counter() - start)
            start = time.perf_counter()
            accumulate_gradients(students, [batch], totals=own_totals([batch]), step=step, device=device)
            update(students, config.optimizer.learning_rate, step + 1)
            times["student"].append(time.perf_counter() - start)
    return {role: float(np.median(seconds)) for role, seconds in times.items()}


@contextmanager
def one_core(core: int) -> Iterator[None]:
    """Bind this thread to one core, with one torch thread."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, before)


def waiting(steps: np.ndarray) -> float:
    """Share of the time, from the first step's start to the last step's end, in which no step ran.

    ``steps``: starts and ends, float64 (N, 2), sorted.
    """
    gaps = np.maximum(0.0, steps[1:, 0] - np.maximum.accumulate(steps[:-1, 1]))
    return float(gaps.sum() / (steps[:, 1].max() - steps[0, 0]))


def steady(rows: RunRows) -> dict[str, Any]:
    """Steady state of a run, without the first `WARM_UP` of its steps.

    Returns:
        ``wait``, see `waiting`; ``busy``: stage -> mean busy share of its actors; ``wall_over_busiest``: one over the
        largest busy share; ``steps``: number of steps counted.
    """
    steps = spans_of(rows, "students")
    steps = steps[int(WARM_UP * len(steps)) :]
    begin, end = float(steps[0, 0]), float(steps[:, 1].max())
    busy = {}
    for stage in STAGES:
        spans = spans_of(rows, stage).clip(begin, end)
        total = float((spans[:, 1] - spans[:, 0]).sum()) if stage != "students" else intervals.length(spans)
        busy[stage] = total / num_actors(rows, stage) / (end - begin)
    return {"wait": waiting(steps), "busy": busy, "wall_over_busiest": 1.0 / max(busy.values()), "steps": len(steps)}


def data_wait(report: Report, *, quick: bool) -> dict[str, Any]:
    """Share of a student's time without a batch, and wall time over the busiest stage's busy time (starts Ray)."""
    found: dict[str, list[dict[str, Any]]] = {"matched": [], "demo": []}
    with tempfile.TemporaryDirectory() as folder:
        light = light_run(Path(folder))
        with process_apart(kept_memory()) as process:  # the environment of a run's workers
            filters, isolated = matching_student(
                lambda filters: process.submit(isolated_seconds, light, filters, blocks=3 if quick else 12).result()
            )
        matched = [*light, student_option(filters)]
        plans = [("matched", matched, 20 if quick else 160)] * (1 if quick else 3)
        plans.append(("demo", list(DEMO), 20 if quick else 80))
        for number, (plan, options, steps) in enumerate(plans):
            rows = distil([*options, f"train.steps={steps}", f"seed={number}"], storage=folder, name=f"run{number}")
            found[plan].append(steady(rows))
    milliseconds = {role: round(1000 * seconds, 1) for role, seconds in isolated.items()}
    report(
        f"matched, on a core of its own: a student of {filters} filters takes {milliseconds['student']} ms a batch,"
        f" the teacher {milliseconds['teacher']} ms"
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
        "isolated_ms": {"filters": filters, **milliseconds},
        "runs": found,
    }
