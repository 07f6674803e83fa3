"""CPU time and memory of this process and of the local cluster it started, by role."""

from __future__ import annotations

import contextlib
from collections import Counter

import psutil
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

TITLES = {
    "ray::MapWorker": "teacher",
    "ray::SplitCoordinator": "coordinator",
    "ray::TrainController": "controller",
    "ray::RayTrainWorker": "student",
    "ray::Evaluator": "evaluator",
    "ray::ReadClips": "source",
    "ray::IDLE": "source",
}
"""Process titles of Ray's workers -> role. The process of a source task is idle between two tasks."""


def role_of(process: psutil.Process) -> str:
    """Role of a process, by the title that Ray gives it; "ray" if it belongs to no stage."""
    title = (process.cmdline() or [""])[0]
    return next((role for start, role in TITLES.items() if title.startswith(start)), "ray")


def _all() -> list[tuple[str, psutil.Process]]:
    own = psutil.Process()
    found = [("driver", own)]
    for process in own.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.append((role_of(process), process))
    return found


def cpu_seconds() -> Counter[str]:
    """CPU seconds so far, by role."""
    spent: Counter[str] = Counter()
    for role, process in _all():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            spent[role] += times.user + times.system
    return spent


def memory_of() -> Counter[str]:
    """Unique memory (USS) in MiB by role. It contains no pages of the object store."""
    used: Counter[str] = Counter()
    for role, process in _all():
        with contextlib.suppress(psutil.Error):
            used[role] += process.memory_full_info().uss / 2**20
    return used


def object_store_mb() -> float:
    """MiB of blocks in the cluster's object stores; 0 if this process is not connected to a cluster."""
    if not ray.is_initialized():
        return 0.0
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    try:
        return float(get_memory_info_reply(state).store_stats.object_store_bytes_used) / 2**20
    finally:
        state.disconnect()
