"""Streaming against what a user would write instead: a loader with the teacher in the training process, or Ray Data
that keeps all masks before training begins. The same clips, teacher, student, updates and cores.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.core.records import DistillationBatch
from echodfkd.runtime.cluster.environment import prepare_ray
from echodfkd.runtime.cluster.host_memory import kept_memory
from echodfkd.runtime.stream.parts import load_teacher, slot_rules, training_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.teaching.blocks import SlotRules, make_block, teach_block
from echodfkd.training.student import make_student
from tests.benchmarks.alone import update_on
from tests.benchmarks.data_wait import WARM_UP, light_run
from tests.benchmarks.job_run import CpuClock, distil, spans_of
from tests.benchmarks.timing import Report, process_apart

TARGET = 1.0
"""Streaming over the faster of the two."""


class Blocks(Dataset[dict[str, np.ndarray]]):
    """The micro-batches of a run by step, as its source makes them."""

    def __init__(self, source: ClipSource, rules: SlotRules, *, steps: int, size: int) -> None:
        self.source, self.rules, self.steps, self.size = source, rules, steps, size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Columns between source and teacher."""
        slots = range(step * self.size, (step + 1) * self.size)
        return make_block(self.source, slots, self.rules, actor="loader")


def alternatives(report: Report, *, quick: bool) -> dict[str, Any]:
    """Wall time of streaming over a loader with the teacher in its process, and over Ray Data materialised (Ray)."""
    prepare_ray("local")  # before ray is imported
    steps = 10 if quick else 120
    rounds: list[dict[str, float]] = []
    cores: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        options = [*light_run(Path(folder)), f"train.steps={steps}", f"data.segment_tasks={steps}"]
        config = load_config(None, [*options, f"storage={folder}", "name=alone"])
        for number in range(1 if quick else 3):
            looks = CpuClock()
            rows = distil(options, storage=folder, name=f"run{number}", look=looks)
            begin = float(spans_of(rows, "teacher")[:, 0].min())
            steps_S2 = spans_of(rows, "students")
            streaming = float(steps_S2[-1, 1]) - begin
            cores.append(looks.cores(rows, begin=float(steps_S2[int(WARM_UP * steps), 0]), end=float(steps_S2[-1, 0])))
            with process_apart(kept_memory()) as process:  # as the run's own workers are
                loader, materialised = (
                    process.submit(work, config).result() for work in (loader_seconds, materialised_seconds)
                )
            rounds.append({"streaming": streaming, "loader": loader, "materialised": materialised})
    report(f"{'seconds of ' + str(steps) + ' updates':<28}" + "".join(f"{name:>14}" for name in rounds[0]))
    for number, one in enumerate(rounds):
        report(f"round {number:<22}" + "".join(f"{seconds:>14.1f}" for seconds in one.values()))
    over = {name: float(np.median([r["streaming"] / r[name] for r in rounds])) for name in ("loader", "materialised")}
    report("streaming over: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in over.items()))
    busy = {stage: float(np.median([one[stage] for one in cores])) for stage in cores[0]}
    report(f"cores that streaming keeps busy, of {_cores()}: " + ", ".join(f"{s} {c:.2f}" for s, c in busy.items()))
    return {
        "value": round(max(over.values()), 4),
        "unit": "seconds from the teacher's first clip to the last update, streaming over the faster alternative",
        "target": TARGET,
        "holds": max(over.values()) <= TARGET,
        "over": over,
        "cores_busy": {stage: round(share, 3) for stage, share in busy.items()},
        "rounds": rounds,
    }


def loader_seconds(config: RunConfig) -> float:
    """A process that teaches and trains with all cores, and one that loads for it."""
    teacher, source, rules = load_teacher(config), training_source(config), slot_rules(config)
    blocks = Blocks(source, rules, steps=config.train.steps, size=config.micro_batch)
    loader = DataLoader(blocks, batch_size=None, num_workers=1, prefetch_factor=4, collate_fn=_as_they_are)

    def taught() -> Iterator[DistillationBatch]:
        for block in loader:
            yield DistillationBatch.from_columns(teach_block(teacher, block, lambda: source, rules, actor="loader"))

    begin = clock.now()
    _train(config, taught())
    return clock.now() - begin


def materialised_seconds(config: RunConfig) -> float:
    """Ray Data teaches all clips into its object store, then one process trains from there, each with all cores."""
    from echodfkd.runtime.cluster.connection import connected
    from echodfkd.runtime.stream.clip_stream import build_stream

    config = replace(config, teacher=replace(config.teacher, num_cpus=float(_cores())))
    with connected(config.ray):
        kept = build_stream(config, 0, load_teacher(config).teacher_id).materialize()
        columns = kept.iter_batches(batch_size=config.micro_batch, batch_format="numpy")
        batches = [DistillationBatch.from_columns(block) for block in columns]
        starts = [span.start for batch in batches for span in batch.spans if span.stage == "teacher"]
        _train(config, batches)
        return clock.now() - min(starts)


def _as_they_are(block: Any) -> Any:
    return block


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _train(config: RunConfig, batches: Iterable[DistillationBatch]) -> None:
    """Every update of the run, with all cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(_cores())
    try:
        students = [make_student(config, name, torch.device("cpu"), None) for name in config.students]
        for step, batch in enumerate(batches):
            update_on(students, batch, step=step, learning_rate=config.optimizer.learning_rate)
    finally:
        torch.set_num_threads(threads)
