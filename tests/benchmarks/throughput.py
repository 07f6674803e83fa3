"""Throughput of the project's own stream against the number of teachers, which sleep instead of computing.

Ray schedules real actors over real blocks. A block passes source task, object store, teacher actor and object store,
and ends in this process, which reads it in the place of the students.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import psutil
from ray.data import DataContext

from echodfkd.config.run import RayConfig, RunConfig
from echodfkd.core.errors import RunError
from echodfkd.core.records import DistillationBatch
from echodfkd.runtime.cluster.connection import connected
from echodfkd.runtime.stream import clip_stream
from echodfkd.runtime.stream.teacher_pool import Stage
from tests.benchmarks.processes import cpu_seconds, memory_of
from tests.benchmarks.sleeping_teacher import SleepingTeacher
from tests.benchmarks.stand_ins import stand_in_config

BATCH = ["train.global_batch=4", "window.frames=18", "window.size=64"]
"""A micro-batch of four clips: 295 kB of video, and as much of masks."""

SOURCES = 8
"""Concurrent read tasks. The stream's scheduler polls ten times per second, and a task takes two polls: two tasks
make at most 10 blocks per second, however fast they are (measured: 11)."""
SETTLE_ROUNDS = 6
"""Rounds (one block per teacher) excluded at the start of a phase, when the reader may find a backlog."""
MEASURED_ROUNDS = 10
"""Minimum number of rounds measured."""
START_TRIES = 3
LAST_ROUNDS = 3
"""Rounds after the last phase: idle teachers would be ended, and their CPU times lost."""


@dataclass(frozen=True)
class Phase:
    """A number of rounds, one block per teacher each, in which each block takes the same time to teach."""

    sleep_s: float
    rounds: int


def phases_of(sleeps: list[float], seconds: float) -> list[Phase]:
    """One phase per time, each ``seconds`` long but at least `MEASURED_ROUNDS` rounds."""
    return [Phase(sleep, SETTLE_ROUNDS + max(MEASURED_ROUNDS, round(seconds / sleep))) for sleep in sleeps]


def measure_stream(teachers: int, phases: list[Phase]) -> dict[str, Any]:
    """Run one stream with a number of teachers through the phases.

    Returns:
        ``rows``: throughput and CPU time of each phase; ``teacher_mb``, ``total_mb``: memory (USS) at the end, of one
        teacher and of all processes; ``starts_s``: seconds from a running cluster to the first block.
    """
    first, sleeps = 0, []
    for phase in phases:
        sleeps.append((first * 4, phase.sleep_s))
        first += phase.rounds * teachers
    steps = first + LAST_ROUNDS * teachers
    config = stream_config(steps, teachers)
    rows = []
    stage = Stage("teacher", SleepingTeacher, {"sleeps": sleeps}, config.teacher)
    with cluster_of_stand_ins(), stream_through([stage], config) as columns:
        stream = map(DistillationBatch.from_columns, columns)
        started, starts_s = time.monotonic(), 0.0
        for phase in phases:
            for _ in range(SETTLE_ROUNDS * teachers):
                next(stream)
                starts_s = starts_s or time.monotonic() - started
            count = (phase.rounds - SETTLE_ROUNDS) * teachers
            before, idle, begin = cpu_seconds(), psutil.cpu_times().idle, time.monotonic()
            for _ in range(count):
                next(stream)
            took = time.monotonic() - begin
            spent = Counter({role: s - before.get(role, 0.0) for role, s in cpu_seconds().items()})
            idle = (psutil.cpu_times().idle - idle) / took / (psutil.cpu_count() or 1)
            rows.append(_row(teachers, phase, count, took, spent, idle))
        memory = memory_of()
        assert sum(1 for _ in stream) == LAST_ROUNDS * teachers
    return {
        "rows": rows,
        "teacher_mb": round(memory["teacher"] / max(1, teachers)),
        "total_mb": round(sum(memory.values())),
        "starts_s": round(starts_s, 1),
    }


@contextlib.contextmanager
def cluster_of_stand_ins() -> Iterator[None]:
    """A local cluster. Tries again if it does not start: Ray gives up after 30 s, too early on a busy machine."""
    with contextlib.ExitStack() as stack:
        for tries_left in reversed(range(START_TRIES)):
            try:
                stack.enter_context(connected(RayConfig(address="local", num_cpus=10, object_store_mb=1024)))
                break
            except RunError:
                if not tries_left:
                    raise
        yield


@contextlib.contextmanager
def stream_through(stages: list[Stage], config: RunConfig) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    """Columns of the stream of `build_stream` with other teaching stages, as one student reads it."""
    DataContext.get_current().wait_for_min_actors_s = 900
    with mock.patch.object(clip_stream, "teaching_stages", return_value=stages):
        dataset = clip_stream.build_stream(config, 0, "stand-in")
    shard = dataset.streaming_split(1, equal=True)[0]
    yield iter(shard.iter_batches(batch_size=config.micro_batch, batch_format="numpy", prefetch_batches=1))


def stream_config(steps: int, teachers: int) -> RunConfig:
    """A run of one student with ``steps`` micro-batches and a pool of teachers that share cores."""
    return stand_in_config(
        [*BATCH, f"train.steps={steps}", "train.checkpoint_every=1", "data.segment_tasks=100000",
         f"data.source_tasks={SOURCES}", "data.source_num_cpus=0.2",
         "data.ahead_mb=256", "teacher.num_cpus=0.1", f"teacher.min_actors={teachers}",
         f"teacher.max_actors={teachers}", "students.a={blocks: 1, layers: 1, filters: 2}"]
    )  # fmt: skip


def _row(teachers: int, phase: Phase, count: int, took: float, spent: Counter[str], idle: float) -> dict[str, Any]:
    pace = count / took
    return {
        "teachers": teachers,
        "sleep_s": phase.sleep_s,
        "asked_batches_s": round(teachers / phase.sleep_s, 2),
        "batches_s": round(pace, 2),
        "of_asked": round(pace * phase.sleep_s / teachers, 3),
        "cpu_ms_per_batch": {role: round(1000 * s / count, 1) for role, s in sorted(spent.items()) if s > 0.01},
        "idle_share": round(idle, 2),
    }
