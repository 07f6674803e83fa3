"""The weights that a student starts from, as an option: what may be named, and the hash that pins the file."""

from __future__ import annotations

import dataclasses
import hashlib

from echodfkd.config import RunConfig, StudentConfig
from echodfkd.errors import ConfigError, InputError
from echodfkd.storage import read_bytes

SUFFIXES = (".safetensors", ".ckpt")


def check_initial_option(option: str, student: StudentConfig) -> None:
    """Check a student's ``input`` and ``initial``; ``option`` is its name, e.g. students.a. Raises `ConfigError`."""
    if student.input not in ("normalised", "raw"):
        raise ConfigError(f"{option}.input: got {student.input!r}, allowed are normalised, raw")
    if student.initial and not student.initial.endswith(SUFFIXES):
        raise ConfigError(f"{option}.initial: got {student.initial!r}, expected a file that ends in {SUFFIXES}")
    if student.initial_sha256 and not student.initial:
        raise ConfigError(f"{option}.initial_sha256: given without {option}.initial; remove it or name the file")


def pin_initial(config: RunConfig) -> RunConfig:
    """The config with the sha256 of every file that a student starts from.

    Raises:
        InputError: such a file cannot be read.
    """

    def pin(name: str, student: StudentConfig) -> StudentConfig:
        if not student.initial or student.initial_sha256:
            return student
        data = read_initial_bytes(f"students.{name}.initial", student.initial)
        return dataclasses.replace(student, initial_sha256=hashlib.sha256(data).hexdigest())

    return dataclasses.replace(config, students={name: pin(name, student) for name, student in config.students.items()})


def read_initial_bytes(option: str, path: str) -> bytes:
    """The file's content. Raises `InputError` with the option's name."""
    try:
        return read_bytes(path)
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option}: {path} cannot be read: {reason}") from error
