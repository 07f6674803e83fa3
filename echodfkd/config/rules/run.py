"""Checks a whole config: bounds, choices, and every rule of its sections."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from echodfkd.config.pins import check_initial_option
from echodfkd.config.rules.evaluation import check_evaluate, check_judge
from echodfkd.config.rules.heads import check_heads
from echodfkd.config.rules.objective import check_recipe
from echodfkd.config.rules.remote import check_serve
from echodfkd.config.rules.source import check_source
from echodfkd.config.rules.student import check_student
from echodfkd.config.rules.synthesize import check_synthesize
from echodfkd.config.rules.teacher import check_teacher
from echodfkd.config.rules.training import check_batches, check_sizing
from echodfkd.config.rules.values import MAX_CLIP_BYTES, check_values
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError

_CHOICES = {
    "on_exists": ("resume", "refuse"),
    "data.order": ("fixed", "arrival"),
    "optimizer.kind": ("adam", "adamw"),
    "optimizer.schedule": ("cosine", "linear", "constant"),
    "train.engine": ("deepspeed", "plain"),
    "train.zero_stage": (0, 1, 2, 3),
    "train.precision": ("fp32", "bf16"),
}


_AT_LEAST: dict[str, float] = {
    "lease_s": 1,
    "window.frames": 2,
    "window.fps": 0,
    "window.size": 16,
    "optimizer.warmup_steps": 0,
    "optimizer.weight_decay": 0,
    "optimizer.clip_norm": 0,
    "train.steps": 1,
    "train.global_batch": 1,
    "train.accumulation": 1,
    "train.workers": 1,
    "train.checkpoint_every": 1,
    "train.keep_resume": 1,
    "train.early_stop_window": 0,
    "train.early_stop_patience": 1,
    "train.max_failures": 0,
    "train.stop_grace_s": 1,
    "train.num_cpus": 0,
    "train.num_gpus": 0,
    "train.threads": 0,
    "data.quarantine_limit": 0,
    "data.max_attempts": 1,
    "data.source_tasks": 1,
    "data.prefetch_batches": 1,
    "data.segment_tasks": 1,
    "data.ahead_mb": 1,
    "data.no_progress_timeout_s": 0,
    "evaluation.cases": 1,
    "evaluation.frames": 4,
    "evaluation.actors": 1,
    "evaluation.num_cpus": 0,
    "evaluation.num_gpus": 0,
    "evaluation.threads": 1,
    "evaluation.overlays": 0,
    "ray.num_cpus": 1,
    "ray.object_store_mb": 80,
    "ray.progress_s": 0,
    "ray.wait_for_nodes_s": 0,
}


def check_config(config: RunConfig) -> None:
    """Refuse values and combinations that cannot work. Raises `ConfigError`."""
    check_values(dataclasses.asdict(config))
    for option, allowed in _CHOICES.items():
        value = _get(config, option)
        if value not in allowed:
            raise ConfigError(f"{option}: got {value!r}, allowed are {', '.join(map(str, allowed))}")
    for option, least in _AT_LEAST.items():
        value = _get(config, option)
        if not value >= least:
            raise ConfigError(f"{option}: got {value}, must be at least {least:g}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", config.name):
        raise ConfigError(f"name: got {config.name!r}, allowed are up to 100 letters, digits, '.', '_' and '-'")
    if config.clip_bytes > MAX_CLIP_BYTES:
        raise ConfigError(f"window: a clip would have {config.clip_bytes} bytes, at most {MAX_CLIP_BYTES} are allowed")
    for option in ("optimizer.learning_rate", "optimizer.eps", "data.source_num_cpus"):
        if not _get(config, option) > 0:
            raise ConfigError(f"{option}: got {_get(config, option)}, must be above 0")
    for option in ("optimizer.final_fraction", "evaluation.threshold", "data.quarantine_limit"):
        if not 0 <= _get(config, option) <= 1:
            raise ConfigError(f"{option}: got {_get(config, option)}, must lie in 0 .. 1")
    for option in ("optimizer.beta1", "optimizer.beta2", "train.early_stop_min_delta"):
        if not 0 <= _get(config, option) < 1:
            raise ConfigError(f"{option}: got {_get(config, option)}, must lie in 0 <= value < 1")
    for option in ("train.node_label", "evaluation.node_label"):
        value = _get(config, option)
        if value and not re.fullmatch(r"[^=\s]+=[^=\s]+", value):
            raise ConfigError(f"{option}: got {value!r}, expected key=value, e.g. pool=teacher")
    _check_sources(config)
    check_batches(config)
    _check_students(config)
    check_heads(config)
    check_recipe(config)
    check_judge(config.evaluation)
    check_evaluate(config.evaluate, config.window.fps)
    check_synthesize(config.synthesize, config.source)
    check_sizing(config.sizing)
    check_serve(config)


def _check_sources(config: RunConfig) -> None:
    for option, source in (("source", config.source), ("evaluation.source", config.evaluation.source)):
        check_source(option, source)
    check_teacher(config)


def _check_students(config: RunConfig) -> None:
    if not (config.students or config.synthesize.out or config.evaluate.out or config.serve.port):
        raise ConfigError("students: empty, name at least one, e.g. students.c31.blocks=3 students.c31.layers=1")
    for name, student in config.students.items():
        option = f"students.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
            raise ConfigError(f"{option}: a student's name may hold up to 100 letters, digits, '_' and '-'")
        check_student(option, student)
        check_initial_option(option, student)
        multiple = 2 ** (student.blocks - 1)
        if config.window.size % multiple:
            raise ConfigError(
                f"window.size: got {config.window.size}, must be a multiple of {multiple}"
                f" because {option}.blocks is {student.blocks}"
            )
    if not 2 <= config.study.seeds <= 10:  # an interval over runs needs two; its table ends at ten
        raise ConfigError(f"study.seeds: got {config.study.seeds}, must lie in 2 .. 10")
    for name, options in config.study.variants.items():
        fixed = [
            text for text in options if re.match(r"(name|seed|storage|students|study|ray)\b", text) or "=" not in text
        ]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,39}", name) or fixed:
            raise ConfigError(
                f"study.variants.{name}: got {', '.join(options)}; expected a name of up to 40 letters, digits and '_',"
                " and options key=value other than name, seed, storage, students, study and ray"
            )
    if config.study.baseline not in ("", *config.compared):
        raise ConfigError(f"study.baseline: got {config.study.baseline!r}, allowed are {', '.join(config.compared)}")


def _get(config: RunConfig, option: str) -> Any:
    value: Any = config
    for key in option.split("."):
        value = getattr(value, key)
    return value
