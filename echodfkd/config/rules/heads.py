"""Checks of students' classes and tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from echodfkd.config.rules.route import members_of
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError

MIN_TASK_SECONDS = 0.8
"""Shortest window for phase and ef, which are taught only by windows that hold a whole beat: one at 75 per minute."""


def check_heads(config: RunConfig) -> None:
    """Refuse classes and tasks that cannot be learned. Raises `ConfigError`."""
    for name, student in config.students.items():
        _check_names(f"students.{name}.classes", student.classes)
        if "LV" not in student.classes:
            raise ConfigError(
                f"students.{name}.classes: got {', '.join(student.classes) or 'none'}, must hold LV, which every score"
                " and the judge read"
            )
        _check_names(f"students.{name}.tasks", student.tasks)
        if student.tasks:
            _check_window(config, f"students.{name}.tasks")


def check_teacher_gives(config: RunConfig, class_names: Sequence[str]) -> None:
    """Refuse students that ask for a class which the teacher does not segment.

    Args:
        config: the run.
        class_names: of the teacher, the background first.

    Raises:
        ConfigError: names the option and the teacher's classes.
    """
    given = class_names[1:]
    for name, student in config.students.items():
        if missing := [label for label in student.classes if label not in given]:
            raise ConfigError(
                f"students.{name}.classes: got {', '.join(missing)}, but the teacher (teacher.kind"
                f" {config.teacher.kind}) gives {', '.join(given)}"
            )


def check_members_give(config: RunConfig, class_names: Mapping[str, Sequence[str]]) -> None:
    """Refuse a member of an ensemble that gives none of the classes that the students ask for.

    Args:
        config: the run.
        class_names: of each member, the background first.

    Raises:
        ConfigError: names the member and its classes.
    """
    for name, given in class_names.items():
        if not set(given[1:]) & set(config.taught_classes):
            raise ConfigError(
                f"teacher.members.{name}: gives {', '.join(given[1:])}, but the students ask for"
                f" {', '.join(config.taught_classes)} (students.NAME.classes); remove it"
            )


def check_routes_give(config: RunConfig, class_names: Mapping[str, Sequence[str]]) -> None:
    """Refuse a route whose members do not give all classes that the students ask for.

    Args:
        config: the run.
        class_names: of each member, the background first.

    Raises:
        ConfigError: names the route and the classes.
    """
    for route in config.teacher.route.routes:
        given = {label for name in members_of(route) for label in class_names[name][1:]}
        if missing := [label for label in config.taught_classes if label not in given]:
            raise ConfigError(
                f"teacher.route: clips that go to {route} would have no {', '.join(missing)}, which students ask for"
                " (students.NAME.classes); add a member that gives it"
            )


def _check_names(option: str, names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ConfigError(f"{option}: got {name!r}, a name may hold letters, digits and '_'")
    if len({name.lower() for name in names}) < len(names):
        raise ConfigError(f"{option}: got {', '.join(names)}, must not name one thing twice")


def _check_window(config: RunConfig, option: str) -> None:
    window = config.window
    if window.fps == 0:
        raise ConfigError(f"window.fps: got 0 (each clip's own), must be above 0 because {option} is not empty")
    if window.frames / window.fps < MIN_TASK_SECONDS:
        raise ConfigError(
            f"window.frames: got {window.frames} frames at {window.fps:g} per second"
            f" ({window.frames / window.fps:.2f} s), must last at least {MIN_TASK_SECONDS} s because {option} is not"
            " empty: phase and ef are taught by windows that hold a whole beat"
        )
