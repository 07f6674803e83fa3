"""Gain of a pool of teachers over a teacher inside the student's process, and over the ideal.

Teacher and student sleep instead of computing, as if each had a device of its own, so that only the arrangement of the
work is measured. With the teacher inside the student's process a batch takes t + s seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from echodfkd.core.records import DistillationBatch
from echodfkd.runtime.stream.teacher_pool import Stage
from tests.benchmarks.sleeping_teacher import SleepingTeacher
from tests.benchmarks.throughput import SETTLE_ROUNDS, cluster_of_stand_ins, stream_config, stream_through

TEACHERS = 5
"""As in publications with a pool of teachers per student (EDL: 2.3 times, EDL-Dist: 3.1 times)."""


def measure_pool(teach_s: float, learn_s: float, *, seconds: float) -> dict[str, Any]:
    """Time one student, ``learn_s`` seconds per batch, with a pool of `TEACHERS`, ``teach_s`` each, and without.

    Returns:
        ``pool`` and ``inside``: batches per second; ``gain``: their ratio; ``bound``: the gain if only teaching and
        learning took time, min(`TEACHERS` / t, 1 / s) * (t + s); ``of_bound``: gain over bound; ``wall_over_busiest``
        of the pool's run.
    """
    ideal = min(TEACHERS / teach_s, 1 / learn_s)
    with cluster_of_stand_ins():
        pool = _pace(TEACHERS, teach_s, lambda: time.sleep(learn_s), batches=round(seconds * ideal))
        inside = _pace(0, 0.0, lambda: time.sleep(teach_s + learn_s), batches=round(seconds / (teach_s + learn_s)))
    bound = ideal * (teach_s + learn_s)
    return {
        "teach_s": teach_s,
        "learn_s": learn_s,
        "pool": round(pool, 3),
        "inside": round(inside, 3),
        "gain": round(pool / inside, 3),
        "bound": round(bound, 3),
        "of_bound": round(pool / inside / bound, 3),
        "wall_over_busiest": round(ideal / pool, 3),
    }


def _pace(teachers: int, teach_s: float, learn: Callable[[], None], *, batches: int) -> float:
    """Batches per second, without the first rounds and the last."""
    settle = SETTLE_ROUNDS * TEACHERS
    config = stream_config(settle + batches + TEACHERS, max(1, teachers))
    stages = [Stage("teacher", SleepingTeacher, {"sleeps": [(0, teach_s)]}, config.teacher)] if teachers else []
    with stream_through(stages, config) as columns:
        for number, batch in enumerate(columns, 1):
            if stages:
                DistillationBatch.from_columns(batch)
            learn()
            if number == settle:
                begin = time.monotonic()
            if number == settle + batches:
                took = time.monotonic() - begin
    return batches / took
