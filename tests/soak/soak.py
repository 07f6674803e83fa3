"""Sample processes over time and judge whether a series grows with the length of a run.

The rule: a series is cut into thirds. The first is warm-up (allocators, caches, late imports). If the median of the
last third exceeds that of the middle third by more than the limit, the series grows. Medians ignore single peaks; a
leak of x per step shows as x times a third of all steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import TrainConfig
from echodfkd.core.errors import RunError
from echodfkd.core.records import DistillationBatch, StageSpan
from echodfkd.storage.files import RunStorage
from echodfkd.storage.lease import held
from echodfkd.storage.ledger import check_ledger
from echodfkd.training.loop import train
from echodfkd.training.run_state import WorkerContext

MIN_SAMPLES = 9
SLACK = {"memory_mb": 4.0, "handles": 3.0, "threads": 3.0, "objects_mb": 4.0}
"""Limit of the rise of a median, for runs of any length: the noise of allocators and thread pools."""
SHARE = 0.02
"""The same as a share of the middle third's median. The larger of the two is the limit."""

Series = Mapping[str, Sequence[float]]
"""Values over time by name. The first word of a name is its kind, a key of `SLACK`."""


@dataclass(frozen=True)
class Trend:
    """Medians of a series and the largest rise that counts as flat, in the unit of the series."""

    name: str
    middle: float
    last: float
    limit: float

    @property
    def flat(self) -> bool:
        """Whether the rise from the middle to the last third is within the limit."""
        return self.last - self.middle <= self.limit


def judge(series: Series) -> list[Trend]:
    """Compute the trend of each series.

    Raises:
        RunError: a series has too few values.
    """
    trends = []
    for name, values in series.items():
        if len(values) < MIN_SAMPLES:
            raise RunError(f"{name}: {len(values)} samples, need {MIN_SAMPLES}; let it run for longer")
        third = len(values) // 3
        middle, last = statistics.median(values[third : 2 * third]), statistics.median(values[2 * third :])
        trends.append(Trend(name, middle, last, max(SLACK[name.split()[0]], SHARE * middle)))
    return trends


def sample_process(process: psutil.Process) -> dict[str, float]:
    """Allocated memory of a process (anonymous pages, in MiB), its open file handles and its threads.

    Pages of files (libraries) and of the object store are excluded: they are shared with other processes.

    Raises:
        OSError, psutil.Error: the process has ended, or the system has no /proc.
    """
    lines = (line.split() for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    kib = sum(int(line[1]) for line in lines if line[0] in ("RssAnon:", "VmSwap:"))
    return {
        "memory_mb": kib / 1024,
        "handles": float(process.num_fds()),
        "threads": float(process.num_threads()),
    }


def describe(series: Series, report: Callable[[str], None], *, steps: int, wall_s: float) -> dict[str, Any]:
    """Report the table of trends and return it as JSON values; ``holds``: whether all are flat."""
    trends = judge(series)
    report(f"{'series':<28} {'middle third':>12} {'last third':>12} {'rise':>8} {'limit':>8}")
    for trend in trends:
        rise = trend.last - trend.middle
        verdict = "flat" if trend.flat else "GROWS"
        report(
            f"{trend.name:<28} {trend.middle:>12.1f} {trend.last:>12.1f} {rise:>8.2f} {trend.limit:>8.1f}  {verdict}"
        )
    return {
        "steps": steps,
        "wall_s": round(wall_s, 1),
        "samples": min(len(values) for values in series.values()),
        "series": {t.name: {"middle": round(t.middle, 2), "last": round(t.last, 2)} for t in trends},
        "target": f"last third at most {SHARE:.0%} or {SLACK} above the middle third",
        "holds": all(trend.flat for trend in trends),
    }


def soak_loop(
    steps: int,
    report: Callable[[str], None],
    *,
    samples: int = 120,
    disturb: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Soak the training loop in this process, without Ray: tiny steps with ledger, checkpoints and lease.

    Args:
        steps: updates of two clips; a checkpoint every hundred.
        report: takes the table.
        samples: number of samples, evenly spread over the run.
        disturb: called before each step; tests plant a leak here.

    Raises:
        RunError: the ledger is not exact.
    """
    optimised = TrainConfig(steps=steps, global_batch=2, engine="plain", checkpoint_every=100)
    config = RunConfig(students={"tiny": StudentConfig(blocks=1, layers=1, filters=2)}, train=optimised)
    config = replace(config, lease_s=5.0)
    series: dict[str, list[float]] = {}
    process, every = psutil.Process(), max(1, steps // samples)

    def stream() -> Iterator[DistillationBatch]:
        for step in range(steps):
            if step % every == 0:
                for name, value in sample_process(process).items():
                    series.setdefault(name, []).append(value)
            disturb(step)
            yield _noise(range(2 * step, 2 * step + 2))

    threads, started = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            storage = RunStorage(f"{folder}/run")
            with held(storage, lease_s=config.lease_s, log=report) as lease:
                context = WorkerContext(0, 1, "cpu", "student0", "soak", lambda values: None, lease.epoch)
                train(context, stream(), config, storage, "teacher")
            ledger = check_ledger(storage, config.plan_slots)
    finally:
        torch.set_num_threads(threads)
    if ledger.problems:
        raise RunError(f"the ledger is not exact after {steps} steps: {ledger.problems[0]}")
    found = describe(series, report, steps=steps, wall_s=time.monotonic() - started)
    return {**found, "clips": ledger.clips, "lost": ledger.lost, "repeated": ledger.repeated}


def _noise(slots: range) -> DistillationBatch:
    """Two clips of noise, two frames of 8 x 8 each, with a source's and a teacher's span."""
    rng, count, now = np.random.default_rng(slots.start), len(slots), time.time()
    return DistillationBatch(
        slot=np.array(slots, np.int64),
        index=np.array(slots, np.int64),
        clip_id=tuple(f"noise-i{slot}" for slot in slots),
        epoch=np.zeros(count, np.int64),
        window_start=np.zeros(count, np.int64),
        video=rng.integers(0, 256, (count, 2, 8, 8), dtype=np.uint8),
        teacher_prob=rng.integers(0, 256, (count, 2, 1, 8, 8), dtype=np.uint8),
        sample_weight=np.ones(count, np.float32),
        spans=tuple(StageSpan(stage, f"{stage}-0", now, now + 1, count, 4) for stage in ("source", "teacher")),
    )
