"""Checks of `augment` together with the teacher."""

from __future__ import annotations

from echodfkd.config.sections.augment import GEOMETRY, AugmentConfig
from echodfkd.config.sections.teacher import BY_CLIP
from echodfkd.core.errors import ConfigError


def check_augment(augment: AugmentConfig, *, teacher_kind: str, has_features: bool) -> None:
    """Refuse a place that does not fit the teacher. Raises `ConfigError`."""
    if not augment.is_on:
        return
    if augment.where == "before_teacher" and teacher_kind in BY_CLIP:
        raise ConfigError(
            f"augment.where: got before_teacher, but the masks of teacher.kind={teacher_kind} belong to the videos as"
            " they are; set augment.where=after_teacher"
        )
    if augment.where == "after_teacher" and has_features and augment.moves_pixels:
        raise ConfigError(
            "augment.where: got after_teacher, but teacher.feature_layer is set and the teacher's features do not move"
            f" with the pixels; set augment.where=before_teacher, or leave {', '.join(GEOMETRY)} at 0"
        )
