"""A stream whose teacher and students have a core each, against either of them alone at the same work."""

from __future__ import annotations

import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from echodfkd.config.file import load_config
from echodfkd.core.errors import RunError
from echodfkd.runtime.cluster.host_memory import kept_memory
from tests.benchmarks.alone import work_alone
from tests.benchmarks.data_wait import WARM_UP, light_run
from tests.benchmarks.job_run import distil, pin, spans_of
from tests.benchmarks.teacher_frames import write_random_weights
from tests.benchmarks.timing import Report, process_apart

TARGET = 1.15
TEACHER, STUDENT = "ray::MapWorker", "ray::RayTrainWorker"
"""Titles that Ray gives the processes of the two roles."""


@dataclass(frozen=True)
class Pair:
    """A teacher and students that take about equally long: options of their run, updates, and batches of each alone."""

    options: list[str]
    steps: int
    blocks: int


def pairs(folder: Path, *, quick: bool) -> dict[str, Pair]:
    """The published teacher with eight students of the published family, and the lightest pair that there is."""
    light = light_run(folder, videos=16 if quick else 64)
    published = [
        *(option for option in light if not option.startswith("students.")),
        "train.global_batch=4",
        "teacher.kind=echonet_deeplabv3",
        f"teacher.weights={write_random_weights(folder / 'deeplabv3.pt')}",
        *(f"students.a{number}={{blocks: 3, layers: 1}}" for number in range(8)),
    ]
    return {
        "published": Pair(published, 3 if quick else 25, 1 if quick else 4),
        "light": Pair(light, 20 if quick else 120, 3 if quick else 20),
    }


def stream_wall(report: Report, *, quick: bool) -> dict[str, Any]:
    """Wall time of streaming over the slower of teacher and student alone, a core each, same kernels (Ray)."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RunError(f"stream_wall gives teacher and student a core each; this process may use {len(cores)}")
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, pair in pairs(Path(folder), quick=quick).items():
            found[name] = [
                measure(pair, f"{name}{number}", folder, (cores[0], cores[1])) for number in range(1 if quick else 2)
            ]
    report(
        f"{'pair':<10} {'ms a batch: stream':>20} {'teacher alone':>14} {'students alone':>15} {'wall / slower':>14}"
    )
    for name, several in found.items():
        for one in several:
            wall, teach, learn = (1e3 * one[part] for part in ("wall", "teacher", "student"))
            report(f"{name:<10} {wall:>20.1f} {teach:>14.1f} {learn:>15.1f} {one['ratio']:>14.3f}")
    ratios = {name: float(np.median([one["ratio"] for one in several])) for name, several in found.items()}
    return {
        "value": round(ratios["published"], 4),
        "unit": "seconds of a batch while streaming over those of the slower role alone, published pair, median",
        "target": TARGET,
        "holds": ratios["published"] <= TARGET,
        "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "cores": len(cores),
        "runs": found,
    }


def measure(pair: Pair, name: str, folder: str, cores: tuple[int, int]) -> dict[str, float]:
    """Seconds of a batch while streaming, and of each role alone before and after it."""
    options = [*pair.options, f"train.steps={pair.steps}"]
    config = load_config(None, [*options, f"storage={folder}", "name=alone"])

    def both_alone() -> dict[str, float]:
        with process_apart(kept_memory()) as process:  # as the run's own workers are
            return process.submit(work_alone, config, blocks=pair.blocks, core=cores[1]).result()

    alone = [both_alone()]
    look = functools.partial(pin, {TEACHER: cores[0], STUDENT: cores[1]})
    rows = distil(options, storage=folder, name=name, look=look)
    alone.append(both_alone())
    teach, learn = (float(np.mean([one[role] for one in alone])) for role in ("teacher", "student"))
    ends = spans_of(rows, "students")[:, 1]
    first = int(WARM_UP * len(ends))
    wall = float(ends[-1] - ends[first]) / (len(ends) - 1 - first)
    return {"wall": wall, "teacher": teach, "student": learn, "ratio": wall / max(teach, learn)}
