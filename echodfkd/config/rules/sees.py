"""Checks of `teacher.sees` together with the source and the rest of the teacher."""

from __future__ import annotations

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import GENERATORS
from echodfkd.config.sections.source import PartConfig
from echodfkd.config.sections.teacher import BY_CLIP, TeacherConfig
from echodfkd.core.errors import ConfigError

OF_PHANTOM = ("domain", "noise", "dropout")
"""Options of a rendering that only the phantom can make."""


def check_sees(option: str, teacher: TeacherConfig, config: RunConfig) -> None:
    """Refuse a rendering that a source does not have, or whose masks would not lie on the student's frames.

    Args:
        option: the teacher's name in the config.
        teacher: with ``sees``.
        config: the run.

    Raises:
        ConfigError: names the option.
    """
    sees, where = teacher.sees, f"{option}.sees"
    if not sees.is_on:
        return
    if sees.path and any(not getattr(sees, name) == getattr(type(sees)(), name) for name in OF_PHANTOM):
        raise ConfigError(f"{where}.path: got a folder, but {where} has options of the phantom too; give one of them")
    parts: dict[str, PartConfig] = {f"source.parts.{name}": part for name, part in config.source.parts.items()}
    for name, part in (parts or {"source": config.source}).items():
        _check_part(where, teacher, name, part)
    if by_clip := teacher.kinds.intersection(BY_CLIP):
        raise ConfigError(f"{where}: has no effect on masks of kind {min(by_clip)}, which see no pixels; remove it")
    if sees.size and teacher.feature_layer:
        raise ConfigError(
            f"{where}.size: got {sees.size}, but {option}.feature_layer is set, and features are not resized;"
            " leave it 0"
        )
    if config.augment.is_on and config.augment.where == "before_teacher":
        raise ConfigError(
            f"{where}: the teacher sees another rendering, but augment.where is before_teacher, which changes only the"
            " student's clip; set augment.where=after_teacher"
        )


def _check_part(where: str, teacher: TeacherConfig, name: str, part: PartConfig) -> None:
    sees = teacher.sees
    if part.kind in GENERATORS:
        raise ConfigError(
            f"{where}: a clip of a generator has one rendering, but {name}.kind is {part.kind}; remove {where}"
        )
    given = [key for key in OF_PHANTOM if getattr(sees, key) != getattr(type(sees)(), key)]
    if given and part.kind != "phantom":
        raise ConfigError(f"{where}.{given[0]}: only the phantom has it, but {name}.kind is {part.kind}; remove it")
    if given and part.domain == "wild":
        raise ConfigError(
            f"{where}.{given[0]}: {name}.domain is wild, whose hearts no scanner of the phantom images in the same"
            f" place; of it the teacher can see only another {where}.size"
        )
    if sees.path and part.kind != "recorded":
        raise ConfigError(
            f"{where}.path: pairs the videos of a recorded source by name, but {name}.kind is {part.kind}; remove it"
        )
