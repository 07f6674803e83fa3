"""Check a whole config: bounds, choices, and the rules of its sections."""

from __future__ import annotations

import dataclasses
import re

from echodfkd.config.rules.adversary import check_adversary
from echodfkd.config.rules.evaluation import check_judge
from echodfkd.config.rules.heads import check_heads
from echodfkd.config.rules.lengths import check_lengths
from echodfkd.config.rules.objective import check_recipe
from echodfkd.config.rules.privacy import check_privacy
from echodfkd.config.rules.remote import check_serve
from echodfkd.config.rules.source import check_clips, check_source
from echodfkd.config.rules.steering import check_steering
from echodfkd.config.rules.student import check_student
from echodfkd.config.rules.synthesize import check_synthesize
from echodfkd.config.rules.teacher import check_teacher
from echodfkd.config.rules.training import check_batches, check_sizing
from echodfkd.config.rules.values import check_options, check_values
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import NO_DEVICE
from echodfkd.core.errors import ConfigError

NO_STUDENTS = (
    "students: empty, name at least one, e.g. students.c31.blocks=3 students.c31.layers=1, or give --config FILE"
    " (`echodfkd configs` lists some)"
)


def check_config(config: RunConfig) -> None:
    """Refuse values and combinations that cannot work. Raises `ConfigError`."""
    check_values(dataclasses.asdict(config))
    check_options(config)
    check_lengths(config)
    check_source("source", config.source)
    check_source("evaluation.source", config.evaluation.source)
    check_clips(config)
    check_steering(config)
    check_adversary(config)
    check_privacy(config.privacy)
    check_teacher(config)
    check_batches(config)
    _check_students(config)
    _check_study(config)
    check_heads(config)
    check_recipe(config)
    check_judge(config.evaluation)
    check_synthesize(config)
    check_sizing(config.sizing)
    check_serve(config)


def _check_students(config: RunConfig) -> None:
    if not (config.students or config.synthesize.out or config.evaluate.out or config.serve.port):
        raise ConfigError(NO_STUDENTS)
    for name, student in config.students.items():
        option = f"students.{name}"
        if not re.fullmatch(NO_DEVICE + r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
            raise ConfigError(
                f"{option}: a student's name may hold up to 100 letters, digits, '_', '-'; not CON, NUL ..."
            )
        check_student(option, student)
        multiple = 2 ** (student.blocks - 1)
        sized, side = (f"{option}.side", student.side) if student.side else ("window.size", config.window.size)
        if side % multiple:
            raise ConfigError(
                f"{sized}: got {side}, must be a multiple of {multiple} because {option}.blocks is {student.blocks}"
            )


def _check_study(config: RunConfig) -> None:
    for name, options in config.study.variants.items():
        fixed = [
            text for text in options if re.match(r"(name|seed|storage|students|study|ray)\b", text) or "=" not in text
        ]
        if not re.fullmatch(NO_DEVICE + r"[A-Za-z0-9][A-Za-z0-9_]{0,39}", name) or fixed:
            raise ConfigError(
                f"study.variants.{name}: got {', '.join(options)}; expected a name of up to 40 letters, digits and '_',"
                " and options key=value other than name, seed, storage, students, study and ray"
            )
    if config.study.baseline not in ("", *config.compared):
        raise ConfigError(f"study.baseline: got {config.study.baseline!r}, allowed are {', '.join(config.compared)}")
