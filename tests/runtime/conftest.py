"""Finished runs on the session's cluster that several tests look at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from echodfkd.config.file import load_config
from echodfkd.config.run import RunConfig
from echodfkd.runtime.distillation_run import run_distillation
from tests.conftest import TINY
from tests.helpers.repeated import repeated

SHARED = [
    "students.b={blocks: 1, layers: 2, filters: 4, norm: group}",
    "students.wide={blocks: 2, layers: 1, filters: 4, classes: [LV, myocardium, LA, RV, RA], tasks: [phase, ef]}",
    "teacher.kind=embedded_chambers",
    "teacher.max_actors=2",
    "teacher.min_actors=2",
    "teacher.num_cpus=0.5",
    "train.workers=2",
    "train.engine=plain",
    "train.steps=4",
    "train.checkpoint_every=2",
    "window.frames=24",
    "window.fps=24",
    "evaluation.frames=40",
    "train.accumulation=2",
    "data.segment_tasks=1",
]
"""Two workers, two teacher actors, four segments, two passes of the stream, and three students that ask one teacher for
different things."""

FAMILY = [
    "students.b={blocks: 1, layers: 1, filters: 2}",
    "students.c={blocks: 1, layers: 2, filters: 8}",
    "train.engine=plain",
    "train.steps=60",
    "train.checkpoint_every=2",
    "train.early_stop_window=1",
    "train.early_stop_patience=1",
    "train.early_stop_min_delta=0.001",
    "evaluation.overlays=0",
    "ray.progress_s=0.2",
]
"""Three students that stop early. No loss changes by nearly the 0.001 that counts as better from update to update, so
that other rounding moves no stop: the first change of b is -0.0002, those of a and c are 0.003 or more (relative)
until both rise at update 7."""


@dataclass
class FinishedRun:
    """A run that is over: its config, the summary that it returned, and the lines that it printed."""

    config: RunConfig
    summary: dict[str, Any]
    lines: list[str]
    coordinators: int = 0
    """The most stream coordinators that lived at once."""


@contextlib.contextmanager
def most_coordinators() -> Iterator[list[int]]:
    """Counts the living stream coordinators until the block ends."""
    living = [0]

    def count() -> None:
        found = 0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                found += any("SplitCoordinator" in word for word in process.cmdline())
        living[0] = max(living[0], found)

    with repeated(count, every_s=0.2):
        yield living


def _finish(folder: Path, *overrides: str) -> FinishedRun:
    config = load_config(None, [f"storage={folder}", *TINY, *overrides])
    lines: list[str] = []
    return FinishedRun(config, run_distillation(config, lines.append), lines)


@pytest.fixture(scope="session")
def shared_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The run of SHARED. Tests only read it."""
    with most_coordinators() as living:
        run = _finish(tmp_path_factory.mktemp("shared"), "name=shared", *SHARED)
    run.coordinators = living[0]
    return run


@pytest.fixture(scope="session")
def family_run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The run of FAMILY: b stops at update 2, a and c at update 7 of 60. Tests may repeat its command."""
    return _finish(tmp_path_factory.mktemp("family"), "name=family", *FAMILY)
