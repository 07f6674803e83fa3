"""The runs of a study, as configs: one per teacher, seed and variant."""

from __future__ import annotations

import dataclasses

from echodfkd.config.file import override
from echodfkd.config.rules.jobs import needs_study
from echodfkd.config.rules.run import check_config
from echodfkd.config.run import RunConfig, StudyConfig


def study_groups(config: RunConfig) -> dict[str, list[dict[str, RunConfig]]]:
    """Every run of a study by teacher, seed and variant. Raises `ConfigError` if one of them is not sound."""
    needs_study(config)
    groups = {name: [variant_configs(run) for run in group] for name, group in study_configs(config).items()}
    for run in (run for group in groups.values() for seed in group for run in seed.values()):
        check_config(run)
    return groups


def study_configs(config: RunConfig) -> dict[str, list[RunConfig]]:
    """The study's runs by teacher ("" if all have the config's), a seed each: both are in a run's name."""
    return {
        name: seed_configs(dataclasses.replace(config, teacher=teacher, name=f"{config.name}-{name}".rstrip("-")))
        for name, teacher in (config.study.teachers or {"": config.teacher}).items()
    }


def seed_configs(config: RunConfig) -> list[RunConfig]:
    """The same config with seeds of their own, and the seed in the name; students of one architecture start alike."""
    train = dataclasses.replace(config.train, same_start=True)
    seeds = range(config.seed, config.seed + config.study.seeds)
    return [dataclasses.replace(config, seed=seed, name=f"{config.name}-seed{seed}", train=train) for seed in seeds]


def variant_configs(run: RunConfig) -> dict[str, RunConfig]:
    """The runs of one seed by variant; the run itself under "" if there are none. Raises `ConfigError`."""
    plain = dataclasses.replace(run, study=StudyConfig())
    stem, _, ending = run.name.rpartition("-seed")
    return {
        name: override(dataclasses.replace(plain, name=f"{stem}-{name}-seed{ending}"), options)
        for name, options in run.study.variants.items()
    } or {"": run}
