"""A study: one run per seed, in which all students share every batch; then their scores side by side.

With ``study.variants`` there is a run per seed and variant: for questions, such as of the source, that no single stream
can answer. Cases stay paired where the variants leave ``evaluation`` alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from echodfkd.config import RunConfig, StudyConfig
from echodfkd.config_file import override
from echodfkd.errors import RunError
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.study import build_study, markdown_table, side_by_side
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
    seeds = [variant_configs(run) for run in seed_configs(config)]
    runs = [(name, run) for variants in seeds for name, run in variants.items()]
    with connected(config.ray):
        for number, (name, run) in enumerate(runs, start=1):
            what = f"seed {run.seed}" + (f", {name}" if name else "")
            print_line(f"study {config.name}: run {number} of {len(runs)}, {what}")
            if stopped := run_distillation(run, print_line)["stopped"]:
                raise RunError(f"study {config.name}: {what} was {stopped}")
    read = [{name: read_rows(RunStorage(run.root)) for name, run in variants.items()} for variants in seeds]
    rows = [side_by_side(variants) if config.study.variants else variants[""] for variants in read]
    study = build_study(rows, baseline=config.study.baseline or config.compared[0])
    study["study"] = config.name
    storage = RunStorage(config.root)
    storage.write("study.json", (json.dumps(study, indent=1, allow_nan=False) + "\n").encode())
    storage.write("study.md", (markdown_table(study) + "\n").encode())
    storage.write("study.png", study_chart(study))
    return {**study, "root": config.root}


def seed_configs(config: RunConfig) -> list[RunConfig]:
    """The study's runs: the same config with seeds of their own, and the seed in the name."""
    seeds = range(config.seed, config.seed + config.study.seeds)
    return [dataclasses.replace(config, seed=seed, name=f"{config.name}-seed{seed}") for seed in seeds]


def variant_configs(run: RunConfig) -> dict[str, RunConfig]:
    """The runs of one seed by variant; the run itself under "" where there are none. Raises `ConfigError`."""
    plain = dataclasses.replace(run, study=StudyConfig())
    stem, _, ending = run.name.rpartition("-seed")
    return {
        name: override(dataclasses.replace(plain, name=f"{stem}-{name}-seed{ending}"), options)
        for name, options in run.study.variants.items()
    } or {"": run}
