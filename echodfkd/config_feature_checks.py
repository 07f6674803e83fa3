"""Checks of the term ``features``: a teacher that can show its layers, a student that has the layer, bounded bytes."""

from __future__ import annotations

import math

from echodfkd.config import RunConfig, StudentConfig
from echodfkd.config_objective import FEATURE_KINDS, TermConfig
from echodfkd.errors import ConfigError

FEATURE_TEACHERS = ("embedded", "embedded_chambers", "echonet_deeplabv3", "torchvision")
"""Kinds of teacher whose network is made of named modules that see a frame at a time."""


def check_features(config: RunConfig) -> None:
    """Refuse features that nobody gives, nobody reads, or that would fill the stream. Raises `ConfigError`."""
    readers = {name: s.objective["features"] for name, s in config.students.items() if "features" in s.objective}
    teacher = config.teacher
    for name, term in readers.items():
        option = f"students.{name}.objective.features"
        if not teacher.feature_layer:
            raise ConfigError(
                f"{option}: needs a layer of the teacher; set teacher.feature_layer, e.g. up.0 of an embedded teacher"
            )
        _check_term(option, config.students[name], term)
    if not teacher.feature_layer:
        return
    if not readers:
        raise ConfigError(
            f"teacher.feature_layer: got {teacher.feature_layer!r}, but no student's objective has the term features,"
            " which reads it; remove it or give a student the term"
        )
    if teacher.kind not in FEATURE_TEACHERS:
        raise ConfigError(
            f"teacher.feature_layer: a teacher of kind {teacher.kind} shows masks and no features; kinds that can are"
            f" {', '.join(FEATURE_TEACHERS)}"
        )
    if teacher.cache:
        raise ConfigError("teacher.feature_layer: teacher.cache keeps masks and no features; set one of the two")
    if teacher.compile:
        raise ConfigError("teacher.feature_layer: a network that teacher.compile is set for cannot be looked into")
    if teacher.feature_channels < 1 or teacher.feature_size < 0:
        raise ConfigError(
            f"teacher.feature_channels: got {teacher.feature_channels} (teacher.feature_size: {teacher.feature_size}),"
            " must be at least 1 (0)"
        )
    shape, pixels = config.feature_shape, config.window.size**2
    assert shape is not None
    if math.prod(shape) > pixels:
        raise ConfigError(
            f"teacher.feature_channels: {shape[0]} channels of {shape[1]} x {shape[2]} are {math.prod(shape)} numbers a"
            f" frame, at most window.size squared ({pixels}) are allowed, twice the video's bytes; lower"
            " teacher.feature_channels or teacher.feature_size"
        )


def _check_term(option: str, student: StudentConfig, term: TermConfig) -> None:
    if term.kind not in FEATURE_KINDS:
        raise ConfigError(f"{option}.kind: got {term.kind!r}, allowed are {', '.join(FEATURE_KINDS)}")
    layers = [f"encoder.{i}" for i in range(student.blocks)] + [f"decoder.{i}" for i in range(student.blocks - 1)]
    if term.layer and term.layer not in layers:
        raise ConfigError(f"{option}.layer: got {term.layer!r}, this student has {', '.join(layers)}")
    if all(other.weight == 0 for name, other in student.objective.items() if name != "features"):
        raise ConfigError(f"{option}: says nothing of masks; name another term beside it, e.g. bce")
