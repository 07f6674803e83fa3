"""Checks of a run whose students are trained against a painter (source.kind adversarial)."""

from __future__ import annotations

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import PAINTER
from echodfkd.config.sections.teacher import KINDS
from echodfkd.core.errors import ConfigError

_WHO = "a source of kind adversarial"
_TEACHERS = [kind for kind in KINDS if kind.startswith("embedded")]


def check_adversary(config: RunConfig) -> None:
    """Refuse what cannot be in a run that trains a painter. Raises `ConfigError`."""
    held_out = config.evaluation.source
    if "adversarial" in {held_out.kind, *(part.kind for part in held_out.parts.values())}:
        raise ConfigError(f"evaluation.source.kind: got adversarial; {_WHO} makes training clips only")
    names = [name for name, part in config.source.generated.items() if part.kind == "adversarial"]
    if not names:
        return
    if len(names) > 1:
        raise ConfigError(f"source.parts: {', '.join(names)} are adversarial, a run trains one painter; keep one")
    if config.synthesize.out:
        raise ConfigError(
            f"synthesize.out: set, but {_WHO} needs students in training; to write its clips give a checkpoint's"
            f" {PAINTER}/weights.safetensors to a source of kind painted"
        )
    window, train = config.window, config.train
    for option, got, allowed, fits in (
        ("window.frames", window.frames, "at least 1", window.frames > 0),
        ("window.size", window.size, "a multiple of 8", window.size % 8 == 0),
        ("data.order", config.data.order, "fixed", config.data.order == "fixed"),
        ("teacher.kind", config.teacher.kind, ", ".join(_TEACHERS), config.teacher.kind in _TEACHERS),
        ("teacher.sees", "other renderings", "the students' own", not config.teacher.sees.is_on),
        ("source.steering.strata", "strata", "none", not config.source.steering.strata),
        ("train.zero_stage", train.zero_stage, "0, 1 or 2", train.engine == "plain" or train.zero_stage < 3),
    ):
        if not fits:
            raise ConfigError(f"{option}: got {got}, {_WHO} needs {allowed}")
    for name, student in config.students.items():
        if name == PAINTER:
            raise ConfigError(f"students.{name}: {_WHO} keeps its painter under this name; take another")
        if "LV" not in student.classes:
            raise ConfigError(f"students.{name}.classes: got {', '.join(student.classes)}, {_WHO} needs LV among them")
