"""A study: runs of one config, then their scores side by side.

One run per seed, in which all students share every batch. With ``study.teachers`` there is a run per teacher and seed,
with ``study.variants`` one per variant and seed, for options that students of one run must share, such as the source.
Cases stay paired if the variants do not change ``evaluation``. A finished run leaves its cell (`reporting.study.cell`),
and all tables are made from cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.config.study import study_groups
from echodfkd.core import clock
from echodfkd.core.counter import Counter
from echodfkd.core.redaction import dump_json
from echodfkd.reporting.rows import RunRows, read_rows
from echodfkd.reporting.study.cell import has_cell, read_cell, write_cell
from echodfkd.reporting.study.study import build_study, students_markdown
from echodfkd.reporting.study.study_chart import study_chart
from echodfkd.reporting.study.teacher_study import build_teacher_study, teachers_markdown
from echodfkd.runtime.cluster.connection import connected, with_absolute_paths
from echodfkd.runtime.cluster.preemption import TIME_OVER
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.progress import spoken
from echodfkd.storage.files import RunStorage


def run_study(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Run (or resume) every distillation that has no cell, and write study.json, study.md and (of students) study.png.

    Returns:
        study.json's content, with ``root`` added, the folder it lies in, and ``stopped``: "", or if the study ended
        before its last run only this sentence.

    Raises:
        EchoDFKDError: one sentence; the same command resumes the study.
    """
    folder = RunStorage(rows_folder(config))
    if stopped := _run_all(config, folder, print_line):
        return {"stopped": f"study {config.name}: {stopped}"}
    read = study_cells(config, folder)
    storage = RunStorage(with_absolute_paths(config).root)
    if config.study.teachers:
        study = build_teacher_study({name: [seed[""] for seed in group] for name, group in read.items()})
    else:
        study = build_study(read[""], baseline=config.study.baseline or config.compared[0])
        study["study"] = config.name
        storage.write("study.png", study_chart(study))
    storage.write("study.json", dump_json(study))
    storage.write("study.md", (study_table(study) + "\n").encode())
    return {**study, "root": storage.root, "stopped": ""}


def rows_folder(config: RunConfig) -> str:
    """The folder of the study's cells."""
    placed = with_absolute_paths(config)
    return placed.study.rows or f"{placed.root}/rows"


def study_cells(config: RunConfig, folder: RunStorage) -> dict[str, list[dict[str, RunRows]]]:
    """The rows of every run of a finished study, as `study_groups` has them."""
    return {
        name: [{variant: read_cell(folder, run.name) for variant, run in seed.items()} for seed in group]
        for name, group in study_groups(config).items()
    }


def missing_cells(config: RunConfig) -> list[tuple[int, str, RunConfig]]:
    """Number, teacher or variant, and config of the runs that have no cell yet.

    Raises:
        ConfigError: one of them is not sound.
        InputError: a cell is of other options.
    """
    folder, groups = RunStorage(rows_folder(config)), study_groups(config)
    runs = [(name or variant, run) for name, of in groups.items() for seed in of for variant, run in seed.items()]
    return [(n, name, run) for n, (name, run) in enumerate(runs) if not has_cell(folder, run.name, config_hash(run))]


def _run_all(config: RunConfig, folder: RunStorage, print_line: Callable[[str], None]) -> str:
    """Run all that have no cell. Returns "", or a sentence if a run was stopped."""
    minutes, left = config.study.minutes, missing_cells(config)
    ends = clock.now() + 60.0 * minutes if minutes else math.inf
    count = sum(len(seed) for group in study_groups(config).values() for seed in group)
    first: dict[str, str] = {}
    say = spoken(config, print_line)
    counter = Counter("runs", len(left), say)
    with connected(config.ray) if left else nullcontext():
        for done, (number, name, run) in enumerate(left):
            what = f"{name}, seed {run.seed}".lstrip(", ")
            if clock.now() >= ends:
                return f"{what} was {TIME_OVER}"
            say(f"study {config.name}: run {number + 1} of {count}, {what}, ETA {counter.eta(done)}")
            placed = with_absolute_paths(run)
            like = first.setdefault(name, placed.root)
            if stopped := run_distillation(placed, print_line, like=like, within_s=ends - clock.now())["stopped"]:
                return f"{what} was {stopped}"
            # the hash is that of the paths as given: cells go with their checkout
            write_cell(folder, read_rows(RunStorage(placed.root)), config_hash(run))
    return ""


def study_table(study: dict[str, Any]) -> str:
    """The study as a Markdown table."""
    return teachers_markdown(study) if "teachers" in study else students_markdown(study)
