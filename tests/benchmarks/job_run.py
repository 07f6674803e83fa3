"""Run `jobs/distill.py` in a process of its own, as a user does, and read the rows of its folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from echodfkd.core.errors import RunError
from echodfkd.reporting.rows import RunRows, column, read_rows
from echodfkd.storage.files import RunStorage

DISTILL = Path(__file__).parents[2] / "jobs" / "distill.py"


def distil(overrides: Sequence[str], *, storage: str, name: str) -> RunRows:
    """Run ``jobs/distill.py`` with these options and return the rows of its folder.

    Raises:
        RunError: the job failed.
    """
    command = [sys.executable, str(DISTILL), *overrides, f"storage={storage}", f"name={name}", "ray.progress_s=0"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if run.returncode:
        raise RunError(f"jobs/distill.py ended with {run.returncode}: {run.stdout.strip()[-500:]}")
    return read_rows(RunStorage(f"{storage}/{name}"))


def spans_of(rows: RunRows, stage: str) -> np.ndarray:
    """Start and end of each span of a stage, float64 (N, 2), in seconds, sorted by end."""
    mine = column(rows.spans, "stage") == stage
    found = np.stack([column(rows.spans, "start")[mine], column(rows.spans, "end")[mine]], axis=1)
    return found[np.argsort(found[:, 1], kind="stable")]


def num_actors(rows: RunRows, stage: str) -> int:
    """Number of processes that worked in a stage."""
    return len(set(column(rows.spans, "actor")[column(rows.spans, "stage") == stage]))
