"""How the stream's pace grows with its teachers: the project's own stream, with teachers that sleep.

Ray schedules real actors over real blocks; a block's way is source task, object store, teacher actor, object store,
this process, which stands in for the students and only reads it.
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
"""Read tasks at work at once. The stream's scheduler looks for finished tasks ten times a second, and a task is through
after two looks: two tasks make 10 blocks a second at most, however fast they are (seen: 11)."""
SETTLE_ROUNDS = 6
"""Rounds (a block per teacher) at the begin of a phase that are left out: the reader may find a backlog there."""
MEASURED_ROUNDS = 10
"""Rounds that are measured, at least."""
START_TRIES = 3
LAST_ROUNDS = 3
"""Rounds after the last phase: teachers without work are ended, and their times with them."""


@dataclass(frozen=True)
class Phase:
    """Blocks that all take the same time to teach: rounds of one block per teacher."""

    sleep_s: float
    rounds: int


def phases_of(sleeps: list[float], seconds: float) -> list[Phase]:
    """One phase for each time, of so many seconds but some rounds at least."""
    return [Phase(sleep, SETTLE_ROUNDS + max(MEASURED_ROUNDS, round(seconds / sleep))) for sleep in sleeps]


def measure_stream(teachers: int, phases: list[Phase]) -> dict[str, Any]:
    """Run one stream with so many teachers through the phases.

    Returns:
        ``rows``: for each phase the pace and what it cost; ``teacher_mb``, ``total_mb``: memory at its end (USS of a
        teacher, PSS of all); ``starts_s``: from a running cluster to the first block.
    """
    first, sleeps = 0, []
    for phase in phases:
        sleeps.append((first * 4, phase.sleep_s))
        first += phase.rounds * teachers
    steps = first + LAST_ROUNDS * teachers
    config = stream_config(steps, teachers)
    rows = []
    stage = Stage(SleepingTeacher, {"sleeps": sleeps}, config.teacher)
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
    """A local cluster; once more where it did not come up: Ray itself gives up after 30 s, too soon when busy."""
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
    """The columns of the stream that `build_stream` makes of the config, with other stages, as one student reads it."""
    DataContext.get_current().wait_for_min_actors_s = 900
    with mock.patch.object(clip_stream, "teaching_stages", return_value=stages):
        dataset = clip_stream.build_stream(config, 0, "stand-in")
    shard = dataset.streaming_split(1, equal=True)[0]
    yield iter(shard.iter_batches(batch_size=config.micro_batch, batch_format="numpy", prefetch_batches=1))


def stream_config(steps: int, teachers: int) -> RunConfig:
    """One student on so many micro-batches, and a pool of so many teachers that need no core of their own."""
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
