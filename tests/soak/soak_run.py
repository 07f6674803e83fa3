"""Soak the whole pipeline: a long run of tiny steps on a local cluster, with all its processes watched.

consumes: the processes of this machine's cluster, its object store / produces: series for `tests.soak.soak`
waits for: nothing / unblocked by: its clock
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import psutil
from ray._private import state as ray_state
from ray._private.internal_api import get_memory_info_reply

from echodfkd.config.run import RunConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime.cluster.connection import connected
from echodfkd.runtime.distillation_run import run_distillation
from tests.helpers.repeated import repeated
from tests.soak.soak import describe, sample_process

ROLES = {
    "gcs_server": "gcs",
    "raylet": "raylet",
    "RayTrainWorker": "students",
    "TeacherActor": "teachers",
    "Evaluator": "evaluators",
    "TrainController": "controller",
    "SplitCoordinator": "coordinators",
}
"""Word in a process title -> role; the first match counts."""


def soak_pipeline(config: RunConfig, report: Callable[[str], None], *, every_s: float) -> dict[str, Any]:
    """Run a distillation and judge the resources of its processes over time.

    Memory, handles and threads are summed over the processes of a role. A role is judged if at least two thirds of the
    samples show it, by those samples: teachers, for example, start after the first sample and end before the last.

    Raises:
        RunError: the ledger is not exact, or the run was too short to be judged.
    """
    samples: list[dict[str, float]] = []
    started = time.monotonic()
    with connected(config.ray), repeated(lambda: _look(samples), every_s=every_s):
        summary = run_distillation(config, report)
    ledger = summary["ledger"]
    if ledger["lost"] or ledger["repeated"]:
        raise RunError(f"the ledger is not exact: {ledger}")
    if not samples:
        raise RunError("the run ended before its processes were sampled; take more steps")
    series: dict[str, list[float]] = {}
    for name in sorted(set().union(*samples)):
        values = [sample[name] for sample in samples if name in sample]
        if 3 * len(values) >= 2 * len(samples):
            series[name] = values
    found = describe(series, report, steps=config.train.steps, wall_s=time.monotonic() - started)
    return {**found, "passes": config.num_passes, **ledger}


def _look(samples: list[dict[str, float]]) -> None:
    sample = _sample()
    if any(name.endswith(" students") for name in sample):  # not while actors load or the report is written
        samples.append(sample)


def _sample() -> dict[str, float]:
    """Sample this process, those of its cluster, and the object store."""
    sums: defaultdict[str, float] = defaultdict(float)
    own = psutil.Process()
    for process in [own, *own.children(recursive=True)]:
        try:
            role = "driver" if process.pid == own.pid else _role(process.cmdline()[:1])
            for kind, value in sample_process(process).items() if role else ():
                sums[f"{kind} {role}"] += value
        except (psutil.Error, OSError):  # the process has just ended
            continue
    stats = get_memory_info_reply(ray_state.state).store_stats
    return {**sums, "objects_mb store": stats.object_store_bytes_used / 2**20}


def _role(title: list[str]) -> str:
    """Role of a process by the first word of its command line: a binary, or Ray's title of a worker."""
    return next((role for word, role in ROLES.items() if title and word in title[0]), "")
