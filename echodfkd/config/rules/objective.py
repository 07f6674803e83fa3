"""Checks of students' objectives, the teacher's features and the average of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from echodfkd.config.rules.augment import check_augment
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.objective import TERM_OPTIONS, TermConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import ConfigError


def check_recipe(config: RunConfig) -> None:
    """Refuse objectives without effect, and averages of weights that no worker holds. Raises `ConfigError`."""
    _check_objectives(config)
    check_features(config)
    check_augment(config.augment, teacher_kind=config.teacher.kind, has_features=config.feature_shape is not None)
    train = config.train
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


def _check_term(option: str, term: str, options: TermConfig) -> None:
    if term not in TERM_OPTIONS:
        raise ConfigError(f"{option}: unknown term; allowed are {', '.join(TERM_OPTIONS)}")
    _refuse_foreign(option, term, options)
    if 0 < options.gamma < 1:
        raise ConfigError(f"{option}.gamma: got {options.gamma:g}, must be 0 or at least 1")


def _refuse_foreign(option: str, term: str, options: TermConfig) -> None:
    """An option of another term would have no effect."""
    owners: Mapping[str, list[str]] = {
        key: [name for name, own in TERM_OPTIONS.items() if key in own]
        for key in ("confidence", "temperature", "gamma", "threshold", "kind", "layer")
    }
    for key, names in owners.items():
        if term not in names and getattr(options, key) != getattr(TermConfig(), key):
            raise ConfigError(f"{option}.{key}: {term} has no such option; it belongs to {', '.join(names)}")


FEATURE_TEACHERS = ("embedded", "embedded_chambers", "embedded_wild", "echonet_deeplabv3", "torchvision")
"""Kinds of teacher whose network is made of named modules that see a frame at a time."""


def check_features(config: RunConfig) -> None:
    """Refuse features without a teacher or a reader, or that would fill the stream. Raises `ConfigError`."""
    readers = {name: s.objective["features"] for name, s in config.students.items() if "features" in s.objective}
    teacher = config.teacher
    for name, term in readers.items():
        option = f"students.{name}.objective.features"
        if not teacher.feature_layer:
            raise ConfigError(
                f"{option}: needs a layer of the teacher; set teacher.feature_layer, e.g. up.0 of an embedded teacher"
            )
        _check_feature_term(option, config.students[name], term)
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
    if teacher.plausible:
        raise ConfigError(
            "teacher.feature_layer: has no use beside teacher.plausible, which gives masks and no features"
        )
    if teacher.compile:
        raise ConfigError("teacher.feature_layer: a network that teacher.compile is set for cannot be looked into")
    shape, pixels = config.feature_shape, config.window.size**2
    assert shape is not None
    if math.prod(shape) > pixels:
        raise ConfigError(
            f"teacher.feature_channels: {shape[0]} channels of {shape[1]} x {shape[2]} are {math.prod(shape)} numbers a"
            f" frame, at most window.size squared ({pixels}) are allowed, twice the video's bytes; lower"
            " teacher.feature_channels or teacher.feature_size"
        )


def _check_feature_term(option: str, student: StudentConfig, term: TermConfig) -> None:
    layers = [f"encoder.{i}" for i in range(student.blocks)] + [f"decoder.{i}" for i in range(student.blocks - 1)]
    if term.layer and term.layer not in layers:
        raise ConfigError(f"{option}.layer: got {term.layer!r}, this student has {', '.join(layers)}")
    if all(other.weight == 0 for name, other in student.objective.items() if name != "features"):
        raise ConfigError(f"{option}: says nothing of masks; name another term beside it, e.g. bce")
