"""Slow-down of training by an evaluator on another core, which is stopped and continued in turn.

Both work as in a run: the training loop publishes checkpoints, and the evaluator scores the newest one with teacher,
truth and judge, again and again without a rest. Phases of a few seconds with and without the evaluator (SIGSTOP,
SIGCONT) alternate. Each pair of neighbours gives one ratio; a disturbance longer than a phase hits both. Training can
then only be slowed by shared caches, memory and disk.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.evaluate import EvaluateConfig
from echodfkd.config.sections.evaluation import EvaluationConfig
from echodfkd.config.sections.training import OptimizerConfig, TrainConfig, WindowConfig
from echodfkd.core.errors import RunError
from echodfkd.core.records import DistillationBatch
from echodfkd.metrics.summary import bootstrap_mean
from tests.benchmarks.accounting import DEMO, SMALLEST, random_batch
from tests.benchmarks.timing import Report

TARGET = 1.05
PHASE_S = 4.0
SETTLE_S = 0.3
"""Steps closer to a change of phase than this are excluded."""
MIN_CORES = 2


def evaluation_overhead(report: Report, *, quick: bool = False) -> dict[str, Any]:
    """Training step with an evaluator at work on another core, over one without; paired phases."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < MIN_CORES:
        report(f"needs {MIN_CORES} cores that a process can be bound to, got {len(cores)}")
        return {"value": None, "unit": "ratio", "target": TARGET, "holds": False}
    pairs = 3 if quick else 24
    with tempfile.TemporaryDirectory() as folder:
        steps, switches, scored = _measure(_config(folder, quick=quick), cores[0], cores[1], pairs)
    medians = [_median(steps, *phase) for phase in switches]
    ratios = _paired(medians)
    found = bootstrap_mean(np.array(ratios), seed=0)
    report(f"{'phase':<20} {'median s of a step':>18}")
    for name, first in (("evaluator stopped", 0), ("evaluator at work", 1)):
        report(f"{name:<20} {np.nanmedian(medians[first::2]):>18.4f}")
    report(f"{len(ratios)} pairs of {PHASE_S:g} s phases, {len(steps)} steps, {scored} cases scored meanwhile")
    report(f"ratio {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]")
    return {
        "value": round(found.mean, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
        "unit": "seconds of a step with the evaluator at work over seconds without, mean of pairs, 95 % bootstrap",
        "target": TARGET,
        "holds": found.high <= TARGET,
        "pairs": len(ratios),
        "cases_scored": scored,
    }


def _measure(
    config: RunConfig, train_core: int, evaluate_core: int, pairs: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]], int]:
    """Run trainer and evaluator.

    Returns:
        Start and end of each step and of each phase, by one monotonic clock, and the number of cases scored. The
        evaluator is stopped in the first phase and in every other one after it.
    """
    context = multiprocessing.get_context("spawn")
    ended, ready = context.Event(), context.Event()
    steps, scored = context.SimpleQueue(), context.Value("i", 0)
    trainer = context.Process(target=_train, args=(config, train_core, ended, steps), daemon=True)
    evaluator = context.Process(target=_evaluate, args=(config, evaluate_core, ready, scored), daemon=True)
    trainer.start()
    evaluator.start()
    try:
        _await(ready, trainer, evaluator)
        phases = []
        for number in range(2 * pairs):
            assert evaluator.pid is not None
            os.kill(evaluator.pid, signal.SIGSTOP if number % 2 == 0 else signal.SIGCONT)
            start = time.monotonic()
            time.sleep(PHASE_S)
            phases.append((start, time.monotonic()))
        ended.set()
        found = steps.get()
        return found, phases, scored.value
    finally:
        for process in (trainer, evaluator):
            process.kill()
            process.join()


def _await(ready: Any, *processes: BaseProcess) -> None:
    """Wait until the evaluator scores. Fails if a process ends."""
    while not ready.wait(1.0):
        for process in processes:
            assert process.is_alive(), f"{process.name} ended with {process.exitcode}"


def _config(folder: str, *, quick: bool) -> RunConfig:
    students, window = (SMALLEST, WindowConfig(frames=4, size=32)) if quick else (DEMO, WindowConfig())
    train = TrainConfig(steps=1_000_000, global_batch=4, engine="plain", checkpoint_every=20)
    optimizer = OptimizerConfig(learning_rate=1e-4)
    return RunConfig(
        students=dict(students), window=window, train=train, optimizer=optimizer, storage=folder, name="run"
    )


def _train(config: RunConfig, core: int, ended: Any, steps: Any) -> None:
    """Run the training loop on one core until ``ended``; then put start and end of each step into ``steps``."""
    from echodfkd.config.file import config_to_yaml
    from echodfkd.storage.files import RunStorage
    from echodfkd.storage.lease import held
    from echodfkd.training import loop as worker
    from echodfkd.training.run_state import WorkerContext

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    spans: list[tuple[float, float]] = []
    batches = [random_batch(config, step) for step in range(8)]

    def stream() -> Iterator[DistillationBatch]:
        for step in range(config.train.steps):
            if ended.is_set():
                steps.put(spans)
            first = step * config.train.global_batch
            slots = np.arange(first, first + config.train.global_batch)
            start = time.monotonic()
            yield replace(batches[step % len(batches)], slot=slots, index=slots)
            spans.append((start, time.monotonic()))

    storage = RunStorage(config.root)
    storage.write("config.yaml", config_to_yaml(config).encode())
    context = WorkerContext(0, 1, "cpu", "student0", "first", lambda values: None, lease_epoch=1)
    with held(storage, lease_s=config.lease_s, log=lambda line: None):
        worker.train(context, stream(), config, storage, "teacher")


def _evaluate(config: RunConfig, core: int, ready: Any, scored: Any) -> None:
    """Score the newest checkpoint on one core, forever."""
    from echodfkd.evaluation.scorer import ModelScorer
    from echodfkd.storage.files import RunStorage
    from echodfkd.storage.manifests import latest_checkpoint

    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    while latest_checkpoint(RunStorage(config.root)) is None:
        time.sleep(0.2)
    evaluate = EvaluateConfig(out=config.storage, run=config.root)
    scoring = RunConfig(evaluate=evaluate, evaluation=EvaluationConfig(cases=8))
    while True:
        for found in ModelScorer(scoring).score_all(range(scoring.evaluation.cases)):
            assert found.scores
            scored.value += 1
            ready.set()


def _median(steps: list[tuple[float, float]], start: float, end: float) -> float:
    inside = [b - a for a, b in steps if a > start + SETTLE_S and b < end - SETTLE_S]
    return float(np.median(inside)) if inside else float("nan")


def _paired(medians: list[float]) -> list[float]:
    """Ratio with / without of each pair of phases, without first. Drops pairs with a phase that has no whole step."""
    ratios = [busy / idle for idle, busy in zip(medians[::2], medians[1::2], strict=True)]
    if all(map(math.isnan, ratios)):
        raise RunError(f"no phase of {PHASE_S:g} s holds a whole training step: this machine is too slow or too busy")
    return [ratio for ratio in ratios if not math.isnan(ratio)]
