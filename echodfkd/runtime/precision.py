"""Settle ``precision: auto`` when a run starts: measured where the work will run, and kept in the run folder."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.evaluation import JUDGES
from echodfkd.config.sections.teacher import TeacherModelConfig
from echodfkd.core.errors import EchoDFKDError, RunError
from echodfkd.core.precision import AUTO, PRECISIONS, TEACHER_PRECISIONS, faster, in_words
from echodfkd.core.redaction import dump_json
from echodfkd.models.judges.build import judge_seconds
from echodfkd.runtime.cluster.connection import connected, last_sentence, node_labels
from echodfkd.runtime.cluster.scaling import nodes_for
from echodfkd.storage.files import RunStorage
from echodfkd.storage.untrusted import parse_json_object
from echodfkd.teaching.build import teacher_seconds
from echodfkd.training.student_precision import student_seconds

FILE = "precision.json"
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Part:
    """What runs in a precision of its own, and where.

    ``measure`` takes ``device``, cpu or cuda, and gives seconds by precision.
    """

    measure: Callable[..., dict[str, float]]
    num_cpus: float
    num_gpus: float
    node_label: str
    threads: int


def settle_precision(
    config: RunConfig, opened: ExitStack, print_line: Callable[[str], None], *, like: str = ""
) -> tuple[RunConfig, dict[str, dict[str, float]]]:
    """The config with a precision in place of every auto, and the seconds that decided, by option.

    A run that has begun keeps its own. Else each part is measured by a task with the resources of its actors, and
    ``opened`` then holds the connection to the cluster. A new run takes those of the run in the folder ``like``, if
    that is there: runs of a study differ in nothing else.

    Raises:
        EchoDFKDError: an input cannot be used, or the cluster cannot hold the run.
    """
    parts = _open_parts(config)
    if not parts:
        return config, {}
    seconds = _kept(config.root) or (_kept(like) if like else {})
    missing = {option: part for option, part in parts.items() if option not in seconds}
    if missing:
        opened.enter_context(connected(config.ray))
        with nodes_for(config, print_line):
            measured = {option: _measured(part) for option, part in missing.items()}
        seconds = {**seconds, **measured}
    for option in parts:
        when = "now" if option in missing else "before"
        print_line(f"{option}: auto is {in_words(seconds[option])}, measured {when}")
    return _with_precisions(config, {option: faster(seconds[option]) for option in parts}), seconds


def keep_precision(storage: RunStorage, seconds: dict[str, dict[str, float]]) -> None:
    """Write the seconds that decided into the run folder, once."""
    if seconds and not storage.exists(FILE):
        storage.write(FILE, dump_json(seconds))


def _kept(root: str) -> dict[str, dict[str, float]]:
    """Those of a run that has begun. Raises `InputError` if its file is damaged."""
    storage = RunStorage(root)
    if not storage.exists(FILE):
        return {}
    found = parse_json_object(storage.read(FILE, MAX_BYTES), f"{storage.root}/{FILE}")
    return {option: values for option, values in found.items() if _are_seconds(values)}


def measured_precision(storage: RunStorage) -> dict[str, str]:
    """The measured choices of a run in words, by option."""
    return {option: in_words(seconds) for option, seconds in _kept(storage.root).items()}


def _are_seconds(values: object) -> bool:
    if not isinstance(values, dict) or PRECISIONS[0] not in values or not set(values) <= set(TEACHER_PRECISIONS):
        return False
    return all(isinstance(one, float) and 0 < one < math.inf for one in values.values())


def _open_parts(config: RunConfig) -> dict[str, Part]:
    """The parts whose precision is auto, by option."""
    teacher, train, evaluation = config.teacher, config.train, config.evaluation
    found: dict[str, Part] = {}
    for option, model in _models(config).items():
        if model.precision == AUTO:
            pool = teacher.actor_pools.get(option, teacher)
            threads, measure = max(1, round(pool.num_cpus)), partial(teacher_seconds, model, window=config.window)
            found[f"{option}.precision"] = Part(measure, pool.num_cpus, pool.num_gpus, pool.node_label, threads)
    if train.precision == AUTO:
        threads, measure = train.threads or max(1, math.ceil(train.num_cpus)), partial(student_seconds, config)
        found["train.precision"] = Part(measure, train.num_cpus, train.num_gpus, train.node_label, threads)
    reads = "judge_precision" in JUDGES[evaluation.judge]
    if evaluation.enabled and reads and evaluation.judge_precision == AUTO:
        measure = partial(judge_seconds, evaluation.judge, evaluation.judge_weights)
        found["evaluation.judge_precision"] = Part(
            measure, evaluation.num_cpus, evaluation.num_gpus, evaluation.node_label, evaluation.threads
        )
    return found


def _models(config: RunConfig) -> dict[str, TeacherModelConfig]:
    """The teacher and the members of an ensemble, by option."""
    members = {f"teacher.members.{name}": member for name, member in config.teacher.members.items()}
    return {"teacher": config.teacher, **members}


def _with_precisions(config: RunConfig, chosen: dict[str, str]) -> RunConfig:
    def settled(option: str, usual: str) -> str:
        return chosen.get(f"{option}precision", usual)

    members = {
        name: replace(member, precision=settled(f"teacher.members.{name}.", member.precision))
        for name, member in config.teacher.members.items()
    }
    teacher = replace(config.teacher, precision=settled("teacher.", config.teacher.precision), members=members)
    judge = settled("evaluation.judge_", config.evaluation.judge_precision)
    return replace(
        config,
        teacher=teacher,
        train=replace(config.train, precision=settled("train.", config.train.precision)),
        evaluation=replace(config.evaluation, judge_precision=judge),
    )


def _measured(part: Part) -> dict[str, float]:
    """By a task of Ray. Raises `EchoDFKDError`."""
    options: dict[str, Any] = {"num_cpus": part.num_cpus, "num_gpus": part.num_gpus, "max_retries": 3}
    if part.node_label:
        options["label_selector"] = node_labels(part.node_label)
    task = ray.remote(_measure).options(**options)
    try:
        return ray.get(task.remote(part.measure, part.num_gpus > 0, part.threads))
    except RayTaskError as error:
        if isinstance(error.cause, EchoDFKDError):
            raise type(error.cause)(str(error.cause)) from error
        raise RunError(f"precision: auto could not be measured: {last_sentence(error)}") from error


def _measure(measure: Callable[..., dict[str, float]], wants_gpu: bool, threads: int) -> dict[str, float]:
    if not wants_gpu:
        torch.set_num_threads(threads)
    return measure(device="cuda" if wants_gpu and torch.cuda.is_available() else "cpu")
