"""A distillation in processes of its own, as a user starts it, and what its rows say of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import echodfkd
from echodfkd.errors import RunError
from echodfkd.reporting.rows import RunRows, column, read_rows
from echodfkd.storage import RunStorage


def distil(overrides: Sequence[str], *, storage: str, name: str) -> RunRows:
    """Run ``jobs/distill.py`` with these options and return the rows of its folder.

    Raises:
        RunError: the job failed, or this is not a checkout with ``jobs/``.
    """
    job = Path(echodfkd.__file__).parents[1] / "jobs" / "distill.py"
    if not job.is_file():
        raise RunError(f"the case runs {job}, which is not there; run it from a checkout of the repository")
    command = [sys.executable, str(job), *overrides, f"storage={storage}", f"name={name}", "ray.progress_s=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RunError(f"jobs/distill.py ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return read_rows(RunStorage(f"{storage}/{name}"))


def spans_of(rows: RunRows, stage: str) -> np.ndarray:
    """Starts and ends of a stage's pieces of work, float64 (N, 2), in the order of their ends."""
    mine = column(rows.spans, "stage") == stage
    found = np.stack([column(rows.spans, "start")[mine], column(rows.spans, "end")[mine]], axis=1)
    return found[np.argsort(found[:, 1], kind="stable")]


def actors_of(rows: RunRows, stage: str) -> int:
    """Processes that worked in a stage."""
    return len(set(column(rows.spans, "actor")[column(rows.spans, "stage") == stage]))
