"""Checks of one student's options against each other."""

from __future__ import annotations

from echodfkd.config.sections.student import CAUSAL, WEIGHTS_SUFFIXES, StudentConfig
from echodfkd.core.errors import ConfigError

_LEAST_SHIFTED = 8
"""One channel in eight is shifted (`models.recurrences.SHIFT_DIVISOR`): fewer have none to shift."""


def check_student(option: str, student: StudentConfig) -> None:
    """Refuse a student that cannot be built. ``option`` is its name in the config, e.g. students.c31.

    Raises:
        ConfigError: one sentence that names the option, its value and the allowed values.
    """
    if student.initial and not student.initial.endswith(WEIGHTS_SUFFIXES):
        raise ConfigError(
            f"{option}.initial: got {student.initial!r}, expected a file that ends in {' or '.join(WEIGHTS_SUFFIXES)}"
        )
    if student.initial_sha256 and not student.initial:
        raise ConfigError(f"{option}.initial_sha256: given without {option}.initial; remove it or name the file")
    if student.recurrence == "shift":
        _check_shift(option, student)
    elif student.bidirectional and student.recurrence in CAUSAL:
        raise ConfigError(
            f"{option}.bidirectional: got true, but {option}.recurrence is {student.recurrence}, which has no state to"
            " run against time; set it to false"
        )
    elif student.bidirectional and student.filters % 2:
        raise ConfigError(
            f"{option}.filters: got {student.filters}, must be even because {option}.bidirectional gives each"
            " direction half of them"
        )


def _check_shift(option: str, student: StudentConfig) -> None:
    if student.blocks * student.layers == 1:
        raise ConfigError(
            f"{option}.recurrence: got shift with one layer in all, which sees only the image, and an image is not"
            f" shifted; set {option}.blocks or {option}.layers to at least 2"
        )
    if 0 < student.filters < _LEAST_SHIFTED:
        raise ConfigError(
            f"{option}.filters: got {student.filters}, must be 0 or at least {_LEAST_SHIFTED} because"
            f" {option}.recurrence is shift, which shifts one channel in {_LEAST_SHIFTED}"
        )
