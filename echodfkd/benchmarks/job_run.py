"""A distillation in processes of its own, as a user starts it, and what its rows say of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

import echodfkd
from echodfkd.errors import RunError
from echodfkd.reporting.rows import RunRows, column, read_rows
from echodfkd.storage import RunStorage

_ROOT = Path(echodfkd.__file__).parents[1]


def distil(overrides: Sequence[str], *, storage: str, name: str, pins: Mapping[str, int] | None = None) -> RunRows:
    """Run ``jobs/distill.py`` with these options and return the rows of its folder.

    ``pins``: first words of processes' titles -> the core that they are kept on, from a second after their start on.

    Raises:
        RunError: the job failed, or this is not a checkout with ``jobs/``.
    """
    job = _checkout_file("jobs/distill.py")
    command = [sys.executable, str(job), *overrides, f"storage={storage}", f"name={name}", "ray.progress_s=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:  # noqa: S603
        while True:
            try:
                said, _ = run.communicate(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                _pin(run.pid, pins or {})
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
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RunError(f"{script} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _checkout_file(name: str) -> Path:
    path = _ROOT / name
    if not path.is_file():
        raise RunError(f"the case runs {path}, which is not there; run it from a checkout of the repository")
    return path


def _pin(parent: int, pins: Mapping[str, int]) -> None:
    """Keep all threads of the processes below ``parent`` that have these titles on their cores."""
    if not pins:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(parent).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                title = (process.cmdline() or [""])[0]
                core = next((core for start, core in pins.items() if title.startswith(start)), None)
                if core is not None:
                    for thread in process.threads():
                        os.sched_setaffinity(thread.id, {core})


def spans_of(rows: RunRows, stage: str) -> np.ndarray:
    """Starts and ends of a stage's pieces of work, float64 (N, 2), in the order of their ends."""
    mine = column(rows.spans, "stage") == stage
    found = np.stack([column(rows.spans, "start")[mine], column(rows.spans, "end")[mine]], axis=1)
    return found[np.argsort(found[:, 1], kind="stable")]


def actors_of(rows: RunRows, stage: str) -> int:
    """Processes that worked in a stage."""
    return len(set(column(rows.spans, "actor")[column(rows.spans, "stage") == stage]))
