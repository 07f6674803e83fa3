"""What a run's teacher and students take for a batch in a process of their own, without Ray."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch
from echodfkd.runtime.stream.parts import load_teacher, slot_rules, training_source
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.training.objective import own_totals
from echodfkd.training.step import accumulate_gradients, update
from echodfkd.training.student import Student, make_student


def work_alone(config: RunConfig, *, blocks: int, core: int) -> dict[str, float]:
    """Median seconds that the run's teacher and its students take for a micro-batch, each alone on one core."""
    teacher, source, rules = load_teacher(config), training_source(config), slot_rules(config)
    size = config.micro_batch
    students = [make_student(config, name, torch.device("cpu"), None) for name in config.students]
    times: dict[str, list[float]] = {"teacher": [], "student": []}
    with one_core(core):
        for step in range(blocks):
            block = make_block(source, range(step * size, (step + 1) * size), rules, actor="alone")
            start = time.perf_counter()
            taught = teach_block(teacher, block, lambda: source, rules, actor="alone")
            times["teacher"].append(time.perf_counter() - start)
            start = time.perf_counter()
            batch = DistillationBatch.from_columns(taught)
            update_on(students, batch, step=step, learning_rate=config.optimizer.learning_rate)
            times["student"].append(time.perf_counter() - start)
    return {role: float(np.median(seconds)) for role, seconds in times.items()}


def update_on(students: Sequence[Student], batch: DistillationBatch, *, step: int, learning_rate: float) -> None:
    """One update of students on the CPU, in this process alone."""
    accumulate_gradients(students, [batch], totals=own_totals([batch]), step=step, device=torch.device("cpu"))
    update(students, learning_rate, step + 1)


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
