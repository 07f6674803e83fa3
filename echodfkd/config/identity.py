"""Whose run a folder is: made once with an identity, resumed only by the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import yaml

from echodfkd.config.file import config_from_dict, config_to_yaml
from echodfkd.config.rules.teacher import _POOL_OPTIONS
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.augment import AugmentConfig
from echodfkd.config.sections.evaluation import EvaluationConfig
from echodfkd.config.sections.objective import PLAIN_OBJECTIVE, TERM_OPTIONS
from echodfkd.config.sections.teacher import REFERENCE, TeacherModelConfig
from echodfkd.config.sections.training import OptimizerConfig, TrainConfig
from echodfkd.config.short_forms import shorten_source, sources_in
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.core.redaction import redact_values
from echodfkd.storage.files import LAYOUT, RunStorage, check_layout

IDENTITY = "identity.json"


def open_run_folder(config: RunConfig, teacher_id: str) -> RunStorage:
    """Make the run folder, or check that the one there is this very run and may be resumed.

    Raises:
        ConfigError: a run of this name exists, and is another one or must not be resumed.
        InputError: the folder cannot be written, or a newer version of this software made it.
    """
    storage = RunStorage(config.root)
    storage.check_readable("storage")
    if not storage.exists(IDENTITY):
        if storage.list(""):
            raise ConfigError(f"name: {config.root} exists and is not a run folder; give this run another name")
        storage.check_writable()
        identity = {"layout": LAYOUT, "config_hash": config_hash(config), "teacher_id": teacher_id}
        if not storage.create_once(IDENTITY, json.dumps(identity, indent=1).encode()):
            raise InputError(f"name: another process has just made the run folder {config.root}")
    elif config.on_exists == "refuse":
        raise ConfigError(f"name: a run {config.name} exists in {config.storage} and on_exists is refuse")
    if not storage.exists("config.yaml"):  # new, or its maker died between the two files
        storage.write("config.yaml", config_to_yaml(config).encode())
    stored = json.loads(storage.read(IDENTITY))
    check_layout(stored, f"{config.root}/{IDENTITY}")
    known = {"config_hash": run_hashes(storage, config), "teacher_id": {teacher_id}}
    for key, own in known.items():
        if stored.get(key) not in own:
            raise ConfigError(
                f"name: the run {config.name} in {config.storage} has another {key} ({stored.get(key)}, now"
                f" {', '.join(sorted(own))}); give this run another name"
            )
    return storage


def run_hashes(storage: RunStorage, config: RunConfig) -> set[str]:
    """The hashes by which this folder may know this config.

    A hash covers every option that there was when it was made, so that a version with more options has another one
    for the same run. The folder's own config.yaml decides: where it means this config, with what came later at its
    default, the hash in the folder's identity is one of this run's.
    """
    own = config_hash(config)
    try:
        stored = json.loads(storage.read(IDENTITY))["config_hash"]
        if stored != own and config_hash(config_from_dict(yaml.safe_load(storage.read("config.yaml")))) == own:
            return {own, str(stored)}
    except (FileNotFoundError, KeyError, ConfigError):  # the training loop alone, or options that are gone
        pass
    return {own}


def drop_unused_augment(values: dict[str, Any]) -> None:
    """Drop it out of a config's plain values where it is off: a run from before there was one stays the same run."""
    options: Mapping[str, Any] = values["augment"]
    if {**options, "where": ""} == {**asdict(AugmentConfig()), "where": ""}:
        values.pop("augment")


def drop_unused_judge(values: dict[str, Any], default: Callable[[], Any]) -> None:
    """Take out of a config's values, before they are hashed, what does not change the scores.

    Options that stand at their defaults leave the hashes of older versions as they were; a judge is known by the hash
    of its weights in every row, not by their path. ``default`` makes a default `config.EvaluationConfig`.
    """
    evaluation, usual = values["evaluation"], asdict(default())
    evaluation.pop("judge_weights")
    evaluation.pop("judge_captions")
    for name in ("judge_precision", "judge_prompts", "judge_controls", "judge_phase_sign"):
        if evaluation[name] == usual[name]:
            evaluation.pop(name)


def drop_unused_heads(values: dict[str, Any]) -> None:
    """Drop what no student uses out of a config's plain values: a run from before there were heads stays the same."""
    if not any(student["tasks"] for student in values["students"].values()):
        values.pop("objective")
    for student in values["students"].values():
        if not student["tasks"]:
            student.pop("tasks")
        if student["classes"] == ["LV"]:
            student.pop("classes")


_ADDED = {
    "optimizer": (OptimizerConfig(), ("kind", "schedule")),
    "train": (TrainConfig(), ("ema_decay",)),
}
"""Options that runs of older versions do not have, by section."""


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


def teacher_facts(values: dict[str, Any], *, has_tasks: bool) -> None:
    """Leave of a config's plain teacher values what decides the targets and is not in the teacher's id already.

    What the students learn beside masks (``has_tasks``) is made of masks in 8 bits. That was so with a cache and for an
    ensemble alone, in versions that wrote a hash without it.
    """
    for key in ("cache", "frame_memory_mb"):
        values.pop(key)
    for model in (values, *values["members"].values()):
        for key in ("weights", "sha256", "remote", *REFERENCE):
            model.pop(key)
        # these came later: a run from before there were such options stays the same run
        for key in ("encoder", "normalise", "precision"):
            if model[key] == getattr(TeacherModelConfig, key):
                model.pop(key)
    for key in ("pools", "confidence"):  # where members run; and what is read by terms that say so
        values.pop(key)
    if values["mask_code"] == PROBABILITY:  # came later, as above
        values.pop("mask_code")
    for member in values["members"].values():
        for key in _POOL_OPTIONS:
            member.pop(key)
        if member["required"]:
            member.pop("required")
    values["is_quantised_first"] = has_tasks and values["kind"] != "ensemble"


_PLACEMENT = (
    "num_cpus",
    "num_gpus",
    "node_label",
    "threads",
    "min_actors",
    "max_actors",
    "actors",
    "device",
    "compile",
    "max_failures",
    "stop_grace_s",
    "timeout_s",
    "keep_resume",
    "workers",
    "engine",
    "zero_stage",
    "torch_adam",
    "source_num_cpus",
    "source_tasks",
    "prefetch_batches",
    "segment_tasks",
    "ahead_mb",
    "no_progress_timeout_s",
)
"""Options that say where and how a run is computed, and not what."""


def config_hash(config: RunConfig) -> str:
    """First 16 hex digits of the sha256 over what decides the numbers.

    Where a run is stored, how its actors are placed and how it talks do not change its result, and so
    do not change the hash: a run may move to another cluster and still be the same run.
    """
    values = redact_values(dataclasses.asdict(config))  # a password that is changed leaves a run what it is
    apart = ("storage", "name", "on_exists", "lease_s", "ray", "synthesize", "study", "limited", "evaluate", "sizing")
    for key in (*apart, "serve"):
        values.pop(key)
    teacher_facts(values["teacher"], has_tasks=bool(config.taught_tasks))  # known by the hash of its weights
    for student in values["students"].values():
        student.pop("initial")  # known by initial_sha256
    for source in sources_in(values):
        shorten_source(source)
        for part in (source, *source.get("parts", {}).values()):
            part.get("conditions", {}).pop("table", None)  # known by table_sha256
    for section in ("teacher", "train", "evaluation", "data"):
        for key in _PLACEMENT:
            values[section].pop(key, None)
    if not config.train.early_stop_window:  # off: it decides nothing
        for key in ("early_stop_window", "early_stop_patience", "early_stop_min_delta"):
            values["train"].pop(key)
    drop_unused_heads(values)
    drop_added_defaults(values)
    drop_unused_judge(values, EvaluationConfig)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
