"""What the tests of faults share: the same run without Ray, a run in a thread, and comparisons bit by bit."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

from echodfkd.config.run import RunConfig
from echodfkd.core.records import DistillationBatch
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import LedgerReport, check_ledger
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.training.loop import WorkerContext, train


def worker_alone(stop_asked: Callable[[], bool] = lambda: False) -> WorkerContext:
    """The only worker of a run."""
    return WorkerContext(0, 1, "cpu", "alone", "alone", lambda values: None, stop_asked=stop_asked)


def train_without_ray(config: RunConfig, folder: Path, *, name: str = "undisturbed", first_slot: int = 0) -> RunConfig:
    """The run that nothing can disturb: one process, its clips made and taught in turn. Returns its config.

    With the name of a run that was stopped there, and the first slot that it has not trained, it goes on with it.
    """
    config = dataclasses.replace(config, storage=str(folder), name=name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: sums over more threads round otherwise
    try:
        teacher = load_teacher(config)
        batches = batches_in_turn(config, first_slot)
        train(worker_alone(), batches, config, RunStorage(config.root), teacher.teacher_id)
    finally:
        torch.set_num_threads(threads)
    return config


def batches_in_turn(config: RunConfig, first_slot: int = 0) -> Iterator[DistillationBatch]:
    """The micro-batches of the plan from a slot on, each made when it is asked for."""
    source, rules, teacher = training_source(config), slot_rules(config), load_teacher(config)
    for first in range(first_slot, config.plan_slots, config.micro_batch):
        block = make_block(source, range(first, first + config.micro_batch), rules, actor="source")
        yield teach_block(teacher, block, lambda: source, rules, actor="teacher")


def final_weights(config: RunConfig) -> dict[str, dict[str, bytes]]:
    """Student -> tensor -> bytes, of weights and Adam's state at the last step."""
    folder = Path(config.root, f"checkpoints/step_{config.train.steps:08d}")
    return {
        name: {key: tensor.tobytes() for key, tensor in load_file(folder / name / "resume.safetensors").items()}
        for name in config.students
    }


def assert_undisturbed(config: RunConfig, folder: Path) -> LedgerReport:
    """The run has ended as the same run without Ray ends."""
    report = check_ledger(RunStorage(config.root), config.plan_slots)
    assert (report.clips, report.lost, report.repeated, report.problems) == (config.plan_slots, 0, 0, [])
    assert final_weights(config) == final_weights(train_without_ray(config, folder))
    return report


class ThreadedRun:
    """A run in a thread of this process, on the session's cluster, watched through its progress lines."""

    def __init__(self, config: RunConfig) -> None:
        self.lines: list[str] = []
        self.summary: dict[str, Any] = {}
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(config,))
        self._thread.start()

    @property
    def front(self) -> int:
        """Updates that the last progress line told of."""
        found = re.findall(r"\| update (\d+)/", " ".join(self.lines[-2:]))
        return int(found[-1]) if found else 0

    def wait_until(self, reached: Callable[[], Any], timeout_s: float = 300.0) -> float:
        """Wait for a condition or the run's end. Returns the seconds that took."""
        began = time.monotonic()
        while self._thread.is_alive() and not reached():
            assert time.monotonic() - began < timeout_s, self.lines[-1:]
            time.sleep(0.02)
        return time.monotonic() - began

    def finish(self) -> dict[str, Any]:
        """Wait for the end and return the summary, or raise what the run raised."""
        self._thread.join(timeout=500)
        assert not self._thread.is_alive(), self.lines[-1:]
        if self.error is not None:
            raise self.error
        return self.summary

    def _run(self, config: RunConfig) -> None:
        try:
            self.summary = run_distillation(config, self.lines.append)
        except Exception as error:
            self.error = error
