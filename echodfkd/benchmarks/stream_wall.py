"""A stream whose teacher and students have a core each, against either of them alone at the same work."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.benchmarks.data_wait import WARM_UP, matched_run
from echodfkd.benchmarks.job_run import distil, spans_of
from echodfkd.benchmarks.timing import Report
from echodfkd.config import RunConfig
from echodfkd.config_file import load_config
from echodfkd.errors import RunError
from echodfkd.records import DistillationBatch
from echodfkd.runtime.parts import load_teacher, slot_rules, training_source
from echodfkd.teaching import make_block, teach_block
from echodfkd.training.objective import Totals, own_totals
from echodfkd.training.step import accumulate_gradients, make_student, update

TARGET = 1.15
TEACHER, STUDENT = "ray::MapWorker", "ray::RayTrainWorker"
"""Titles that Ray gives the processes of the two roles."""


def stream_wall(report: Report, *, quick: bool) -> dict[str, Any]:
    """Wall time of streaming over the slower of teacher and student alone, a core each, same kernels (Ray)."""
    steps, blocks = (20, 3) if quick else (200, 30)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RunError(f"stream_wall gives teacher and student a core each; this process may use {len(cores)}")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        options = [*matched_run(Path(folder)), f"train.steps={steps}"]
        config = load_config(None, [*options, f"storage={folder}", "name=alone"])
        alone = [work_alone(config, blocks=blocks, core=cores[1])]
        for number in range(1 if quick else 3):
            name = f"run{number}"
            rows = distil(options, storage=folder, name=name, pins={TEACHER: cores[0], STUDENT: cores[1]})
            alone.append(work_alone(config, blocks=blocks, core=cores[1]))
            teach, learn = (float(np.mean([one[role] for one in alone[-2:]])) for role in ("teacher", "student"))
            ends = spans_of(rows, "students")[:, 1]
            first = int(WARM_UP * steps)
            wall = float(ends[-1] - ends[first]) / (len(ends) - 1 - first)
            found.append({"wall": wall, "teacher": teach, "student": learn, "ratio": wall / max(teach, learn)})
    report(f"{'run':<4} {'ms a batch: stream':>20} {'teacher alone':>14} {'student alone':>14} {'wall / slower':>14}")
    for number, one in enumerate(found):
        wall, teach, learn = (1e3 * one[name] for name in ("wall", "teacher", "student"))
        report(f"{number:<4} {wall:>20.1f} {teach:>14.1f} {learn:>14.1f} {one['ratio']:>14.3f}")
    value = float(np.median([one["ratio"] for one in found]))
    return {
        "value": round(value, 4),
        "unit": "seconds of a batch while streaming over those of the slower role alone, median of runs",
        "target": TARGET,
        "holds": value <= TARGET,
        "runs": found,
    }


def work_alone(config: RunConfig, *, blocks: int, core: int) -> dict[str, float]:
    """Median seconds that the run's teacher and its students take for a micro-batch, each alone on one core."""
    teacher, source, rules = load_teacher(config), training_source(config), slot_rules(config)
    cpu, size = torch.device("cpu"), config.micro_batch
    students = [make_student(config, name, cpu, None) for name in config.students]
    times: dict[str, list[float]] = {"teacher": [], "student": []}
    with one_core(core):
        for step in range(blocks):
            block = make_block(source, range(step * size, (step + 1) * size), rules, actor="alone")
            start = time.perf_counter()
            taught = teach_block(teacher, block, lambda: source, rules, actor="alone")
            times["teacher"].append(time.perf_counter() - start)
            start = time.perf_counter()
            batch = DistillationBatch.from_columns(taught)
            accumulate_gradients(students, [batch], totals=Totals(*own_totals([batch])), step=step, device=cpu)
            update(students, config.optimizer.learning_rate, step + 1)
            times["student"].append(time.perf_counter() - start)
    return {role: float(np.median(seconds)) for role, seconds in times.items()}


@contextmanager
def one_core(core: int) -> Iterator[None]:
    """This thread on one core, with one thread of torch."""
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, before)
