"""Checks of `teacher.augment`."""

from __future__ import annotations

from echodfkd.config.sections.augment import _MOST, GEOMETRY, AugmentConfig
from echodfkd.core.errors import ConfigError


def check_augment(augment: AugmentConfig, *, teacher_kind: str, has_features: bool) -> None:
    """Refuse strengths and places that mean nothing. Raises `ConfigError`."""
    if augment.where not in ("before_teacher", "after_teacher"):
        raise ConfigError(f"augment.where: got {augment.where!r}, allowed are before_teacher, after_teacher")
    for name, most in _MOST.items():
        value = getattr(augment, name)
        is_open = name in ("scale", "crop", "gain")
        if not 0 <= value <= most or (is_open and value == most):
            raise ConfigError(
                f"augment.{name}: got {value:g}, must lie in 0 <= value {'<' if is_open else '<='} {most}"
            )
    if not augment.is_on:
        return
    if augment.where == "before_teacher" and teacher_kind == "recorded":
        raise ConfigError(
            "augment.where: got before_teacher, but the masks of teacher.kind=recorded belong to the videos as they"
            " are; set augment.where=after_teacher"
        )
    if augment.where == "after_teacher" and has_features and augment.moves_pixels:
        raise ConfigError(
            "augment.where: got after_teacher, but teacher.feature_layer is set and the teacher's features do not move"
            f" with the pixels; set augment.where=before_teacher, or leave {', '.join(GEOMETRY)} at 0"
        )
