"""A study: one run per seed, in which all students share every batch; then their scores side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from echodfkd.config import RunConfig
from echodfkd.errors import RunError
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.study import build_study, markdown_table
from echodfkd.reporting.study_chart import study_chart
from echodfkd.runtime.cluster import connected, with_absolute_paths
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage import RunStorage


def run_study(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Run (or resume) every seed's distillation and write study.json, study.md and study.png.

    Returns:
        study.json's content, with ``root`` added: the folder it lies in.

    Raises:
        EchoDFKDError: one sentence; the same command goes on where this one stopped.
    """
    config = with_absolute_paths(config)
    runs = seed_configs(config)
    with connected(config.ray):
        for number, run in enumerate(runs, start=1):
            print_line(f"study {config.name}: run {number} of {len(runs)}, seed {run.seed}")
            if stopped := run_distillation(run, print_line)["stopped"]:
                raise RunError(f"study {config.name}: seed {run.seed} was {stopped}")
    rows = [read_rows(RunStorage(run.root)) for run in runs]
    study = build_study(rows, baseline=config.study.baseline or next(iter(config.students)))
    storage = RunStorage(config.root)
    storage.write("study.json", (json.dumps(study, indent=1, allow_nan=False) + "\n").encode())
    storage.write("study.md", (markdown_table(study) + "\n").encode())
    storage.write("study.png", study_chart(study))
    return {**study, "root": config.root}


def seed_configs(config: RunConfig) -> list[RunConfig]:
    """The study's runs: the same config with seeds of their own, and the seed in the name."""
    seeds = range(config.seed, config.seed + config.study.seeds)
    return [dataclasses.replace(config, seed=seed, name=f"{config.name}-seed{seed}") for seed in seeds]
