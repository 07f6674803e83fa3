"""What a student's objective and a run's recipe may be, and what of them a run's hash leaves out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from echodfkd.config import OptimizerConfig, RunConfig, TrainConfig
from echodfkd.config_augment import check_augment, drop_unused_augment
from echodfkd.config_feature_checks import check_features
from echodfkd.config_objective import PLAIN_OBJECTIVE, TERM_OPTIONS, TermConfig
from echodfkd.errors import ConfigError

_ADDED = {
    "optimizer": (OptimizerConfig(), ("kind", "schedule")),
    "train": (TrainConfig(), ("ema_decay",)),
}
"""Options that runs of older versions do not have, by section."""


def check_recipe(config: RunConfig) -> None:
    """Refuse objectives that mean nothing, and averages of weights that nobody holds. Raises `ConfigError`."""
    _check_objectives(config)
    check_features(config)
    check_augment(config.augment, teacher_kind=config.teacher.kind, has_features=config.feature_shape is not None)
    train = config.train
    if not 0 <= train.ema_decay < 1:
        raise ConfigError(f"train.ema_decay: got {train.ema_decay}, must lie in 0 <= value < 1")
    if train.ema_decay and train.engine == "deepspeed" and train.zero_stage == 3:
        raise ConfigError(
            f"train.ema_decay: got {train.ema_decay}, but ZeRO stage 3 leaves no worker the whole weights that are"
            " averaged after every update; set train.zero_stage to 2 or less"
        )


def _check_objectives(config: RunConfig) -> None:
    for name, student in config.students.items():
        option = f"students.{name}.objective"
        for term, options in student.objective.items():
            _check_term(f"{option}.{term}", term, options)
            if options.confidence == "teacher" and not config.teacher.confidence:
                raise ConfigError(
                    f"{option}.{term}.confidence: got teacher, but no teacher's confidence crosses to the students; set"
                    " teacher.confidence=true, which an ensemble has (teacher.kind=ensemble)"
                )
        if student.objective and not any(t.weight > 0 and t.start == 0 for t in student.objective.values()):
            raise ConfigError(
                f"{option}: no term has a weight above 0 at the first update; give one of"
                f" {', '.join(student.objective)} weight > 0 and start=0"
            )
        late = next((t for t, o in student.objective.items() if o.weight > 0 and (o.start or o.ramp)), None)
        if late and config.train.early_stop_window:
            raise ConfigError(
                f"{option}.{late}: has start or ramp, but train.early_stop_window is {config.train.early_stop_window}"
                " and compares losses over time, which a schedule changes; set start=0 ramp=0, or no early stopping"
            )


def drop_added_defaults(values: dict[str, Any]) -> None:
    """Drop options that came later and are at their default out of a config's plain values.

    A run from before there were such options stays the same run. An objective that is spelled out as the plain one
    is no other than an empty one.
    """
    for section, (defaults, keys) in _ADDED.items():
        for key in keys:
            if values[section][key] == getattr(defaults, key):
                values[section].pop(key)
    plain = {term: dataclasses.asdict(options) for term, options in PLAIN_OBJECTIVE.items()}
    for options in plain.values():
        for key in TERM_OPTIONS["features"]:
            options.pop(key)
    drop_unused_augment(values)
    values["train"].pop("init_from")  # known by each student's initial_sha256
    if not values["teacher"]["feature_layer"]:
        for key in ("feature_layer", "feature_channels", "feature_size"):
            values["teacher"].pop(key)
    for student in values["students"].values():
        for term, options in student["objective"].items():
            if term != "features":
                for key in TERM_OPTIONS["features"]:
                    options.pop(key)
        if student["objective"] in ({}, plain):
            student.pop("objective")


def _check_term(option: str, term: str, options: TermConfig) -> None:
    if term not in TERM_OPTIONS:
        raise ConfigError(f"{option}: unknown term; allowed are {', '.join(TERM_OPTIONS)}")
    for key in ("weight", "start", "ramp"):
        if not getattr(options, key) >= 0:
            raise ConfigError(f"{option}.{key}: got {getattr(options, key)}, must be at least 0")
    _refuse_foreign(option, term, options)
    if options.confidence not in ("none", "entropy", "teacher"):
        raise ConfigError(f"{option}.confidence: got {options.confidence!r}, allowed are none, entropy, teacher")
    if not options.temperature > 0:
        raise ConfigError(f"{option}.temperature: got {options.temperature:g}, must be above 0")
    if options.gamma != 0 and not options.gamma >= 1:
        raise ConfigError(f"{option}.gamma: got {options.gamma:g}, must be 0 or at least 1")
    if not 0 <= options.threshold < 1:
        raise ConfigError(f"{option}.threshold: got {options.threshold:g}, must lie in 0 <= value < 1")


def _refuse_foreign(option: str, term: str, options: TermConfig) -> None:
    """An option of another term would be set in vain."""
    owners: Mapping[str, list[str]] = {
        key: [name for name, own in TERM_OPTIONS.items() if key in own]
        for key in ("confidence", "temperature", "gamma", "threshold", "kind", "layer")
    }
    for key, names in owners.items():
        if term not in names and getattr(options, key) != getattr(TermConfig(), key):
            raise ConfigError(f"{option}.{key}: {term} has no such option; it belongs to {', '.join(names)}")
