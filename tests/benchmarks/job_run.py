"""A distillation in processes of its own, as a user starts it, and what its rows say of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

import echodfkd
from echodfkd.core import clock
from echodfkd.core.errors import RunError
from echodfkd.reporting.rows import RunRows, column, read_rows
from echodfkd.storage.files import RunStorage

_ROOT = Path(echodfkd.__file__).parents[1]


Look = Callable[[Sequence[psutil.Process]], None]
"""Is shown the processes of a running job, itself and all below it, once a second."""


def distil(overrides: Sequence[str], *, storage: str, name: str, look: Look | None = None) -> RunRows:
    """Run ``jobs/distill.py`` with these options and return the rows of its folder.

    Raises:
        RunError: the job failed, or this is not a checkout with ``jobs/``.
    """
    job = _checkout_file("jobs/distill.py")
    command = [sys.executable, str(job), *overrides, f"storage={storage}", f"name={name}", "ray.progress_s=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        while True:
            try:
                said, _ = run.communicate(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                if look is not None:
                    look(processes_of(run.pid))
    if run.returncode:
        raise RunError(f"jobs/distill.py ended with {run.returncode}: {said.strip()[-500:]}")
    return read_rows(RunStorage(f"{storage}/{name}"))


def checkout_module(name: str) -> str:
    """What a module of the checkout that is no part of the package prints, run in a process of its own.

    Raises:
        RunError: it failed, or this is not a checkout.
    """
    script = _checkout_file(name.replace(".", "/") + ".py")
    command = [sys.executable, "-m", name]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{script} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _checkout_file(name: str) -> Path:
    path = _ROOT / name
    if not path.is_file():
        raise RunError(f"the case runs {path}, which is not there; run it from a checkout of the repository")
    return path


def processes_of(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def pin(cores: Mapping[str, int], processes: Sequence[psutil.Process]) -> None:
    """Keep all threads of processes on a core, by the first words of their titles."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            title = (process.cmdline() or [""])[0]
            core = next((core for start, core in cores.items() if title.startswith(start)), None)
            if core is not None:
                for thread in process.threads():
                    os.sched_setaffinity(thread.id, {core})


class CpuClock:
    """CPU seconds of a job's processes, a `Look`."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, dict[int, float]]] = []

    def __call__(self, processes: Sequence[psutil.Process]) -> None:
        """Read all their clocks."""
        seconds = {}
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                own = process.cpu_times()
                seconds[process.pid] = own.user + own.system
        self._looks.append((clock.now(), seconds))

    def cores(self, rows: RunRows, *, begin: float, end: float) -> dict[str, float]:
        """CPU seconds a second by stage, and of "the rest", from the first look after ``begin`` to the last before
        ``end`` (`clock.now`). A stage's processes are those that its spans name.

        Raises:
            RunError: there were fewer than two looks between.
        """
        between = [look for look in self._looks if begin <= look[0] <= end]
        if len(between) < 2:
            raise RunError(f"{len(between)} looks at the run's processes in {end - begin:.1f} s, at least 2 are needed")
        (first, before), (last, after) = between[0], between[-1]
        actors = zip(column(rows.spans, "actor"), column(rows.spans, "stage"), strict=True)
        stage_of = {int(actor.rpartition("-")[2]): str(stage) for actor, stage in actors}
        found = dict.fromkeys([*dict.fromkeys(stage_of.values()), "the rest"], 0.0)
        for pid, seconds in after.items():
            found[stage_of.get(pid, "the rest")] += (seconds - before.get(pid, seconds)) / (last - first)
        return found


def spans_of(rows: RunRows, stage: str) -> np.ndarray:
    """Starts and ends of a stage's pieces of work, float64 (N, 2), in the order of their ends."""
    mine = column(rows.spans, "stage") == stage
    found = np.stack([column(rows.spans, "start")[mine], column(rows.spans, "end")[mine]], axis=1)
    return found[np.argsort(found[:, 1], kind="stable")]


def actors_of(rows: RunRows, stage: str) -> int:
    """Processes that worked in a stage."""
    return len(set(column(rows.spans, "actor")[column(rows.spans, "stage") == stage]))
