"""A study: runs of one config, then their scores side by side.

One run per seed, in which all students share every batch. With ``study.teachers`` there is a run per teacher and seed,
with ``study.variants`` one per variant and seed, for options that students of one run must share, such as the source.
Cases stay paired if the variants do not change ``evaluation``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from echodfkd.config.file import override
from echodfkd.config.run import RunConfig, StudyConfig
from echodfkd.core.errors import ConfigError, RunError
from echodfkd.core.redaction import dump_json
from echodfkd.reporting.rows import read_rows
from echodfkd.reporting.study.study import build_study, students_markdown
from echodfkd.reporting.study.study_chart import study_chart
from echodfkd.reporting.study.teacher_study import build_teacher_study, teachers_markdown
from echodfkd.runtime.cluster.connection import connected, with_absolute_paths
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage


def run_study(config: RunConfig, print_line: Callable[[str], None]) -> dict[str, Any]:
    """Run (or resume) every distillation and write study.json, study.md and (of students) study.png.

    Returns:
        study.json's content, with ``root`` added: the folder it lies in.

    Raises:
        EchoDFKDError: one sentence; the same command resumes the study.
    """
    if config.study.teachers and config.study.variants:
        raise ConfigError("study: compares teachers or variants, got both; make two studies")
    groups = {
        name: [variant_configs(with_absolute_paths(run)) for run in group]
        for name, group in study_configs(config).items()
    }
    runs = [(name or variant, run) for name, group in groups.items() for seed in group for variant, run in seed.items()]
    with connected(config.ray):
        for number, (name, run) in enumerate(runs, start=1):
            what = f"{name}, seed {run.seed}".lstrip(", ")
            print_line(f"study {config.name}: run {number} of {len(runs)}, {what}")
            if stopped := run_distillation(run, print_line)["stopped"]:
                raise RunError(f"study {config.name}: {what} was {stopped}")
    read = {
        name: [{variant: read_rows(RunStorage(run.root)) for variant, run in seed.items()} for seed in group]
        for name, group in groups.items()
    }
    storage = RunStorage(with_absolute_paths(config).root)
    if config.study.teachers:
        study = build_teacher_study({name: [seed[""] for seed in group] for name, group in read.items()})
    else:
        study = build_study(read[""], baseline=config.study.baseline or config.compared[0])
        study["study"] = config.name
        storage.write("study.png", study_chart(study))
    storage.write("study.json", dump_json(study))
    storage.write("study.md", (study_table(study) + "\n").encode())
    return {**study, "root": storage.root}


def study_table(study: dict[str, Any]) -> str:
    """The study as a Markdown table."""
    return teachers_markdown(study) if "teachers" in study else students_markdown(study)


def study_configs(config: RunConfig) -> dict[str, list[RunConfig]]:
    """The study's runs by teacher ("" if all have the config's), a seed each: both are in a run's name."""
    return {
        name: seed_configs(dataclasses.replace(config, teacher=teacher, name=f"{config.name}-{name}".rstrip("-")))
        for name, teacher in (config.study.teachers or {"": config.teacher}).items()
    }


def seed_configs(config: RunConfig) -> list[RunConfig]:
    """The same config with seeds of their own, and the seed in the name."""
    seeds = range(config.seed, config.seed + config.study.seeds)
    return [dataclasses.replace(config, seed=seed, name=f"{config.name}-seed{seed}") for seed in seeds]


def variant_configs(run: RunConfig) -> dict[str, RunConfig]:
    """The runs of one seed by variant; the run itself under "" if there are none. Raises `ConfigError`."""
    plain = dataclasses.replace(run, study=StudyConfig())
    stem, _, ending = run.name.rpartition("-seed")
    return {
        name: override(dataclasses.replace(plain, name=f"{stem}-{name}-seed{ending}"), options)
        for name, options in run.study.variants.items()
    } or {"": run}
