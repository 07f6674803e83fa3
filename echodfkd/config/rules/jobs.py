"""What a job needs of its config beyond a sound one: asked by its --dry-run and again when its work begins."""

from __future__ import annotations

from echodfkd.config.rules.run import NO_STUDENTS
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.teacher import TeacherModelConfig
from echodfkd.core.errors import ConfigError

_MULTIPLE = 8
"""Of an embedded network's frames, which it halves three times."""


def needs_students(config: RunConfig) -> None:
    """Refuse a distillation without students, or frames that its teacher cannot take. Raises `ConfigError`."""
    if not config.students:  # allowed in a config for other jobs
        raise ConfigError(NO_STUDENTS)
    needs_frames(config)


def needs_frames(config: RunConfig) -> None:
    """Refuse frames that an embedded teacher of the run cannot take. Raises `ConfigError`."""
    size = config.window.size
    models: dict[str, TeacherModelConfig] = {"teacher": config.teacher}
    models |= {f"teacher.members.{name}": member for name, member in config.teacher.members.items()}
    for option, model in models.items():
        if model.kind.startswith("embedded") and size % _MULTIPLE:
            raise ConfigError(
                f"window.size: got {size}, must be a multiple of {_MULTIPLE} because {option}.kind is {model.kind}"
            )


def needs_study(config: RunConfig) -> None:
    """Refuse a study of teachers and of variants at once. Raises `ConfigError`."""
    needs_students(config)
    if config.study.teachers and config.study.variants:
        raise ConfigError("study: compares teachers or variants, got both; make two studies")


def needs_clips_folder(config: RunConfig) -> None:
    """Refuse a synthesis without a folder, or with a law that no training makes. Raises `ConfigError`."""
    if not config.synthesize.out:
        raise ConfigError("synthesize.out: empty, name the folder to write clips to, e.g. synthesize.out=clips")
    if config.source.steering.strata:
        raise ConfigError("source.steering.strata: set, but clips in a folder are drawn before any training; remove it")


def needs_models(config: RunConfig) -> None:
    """Refuse an evaluation of nothing, or of masks and tracings that its cases do not have. Raises `ConfigError`."""
    options, source = config.evaluate, config.evaluation.source
    if not options.out or not (options.run or options.masks or options.teacher):
        raise ConfigError(
            "evaluate: name a folder to write (evaluate.out), and evaluate.run, evaluate.masks or evaluate.teacher=true"
        )
    if options.agreement and config.evaluation.judge == "none":
        raise ConfigError("evaluate.agreement: set, but evaluation.judge is none")
    for name in ("masks", "annotations"):
        if getattr(options, name) and source.kind not in ("recorded", "mixture"):
            raise ConfigError(
                f"evaluate.{name}: set, but evaluation.source.kind is {source.kind}; they belong to videos of a"
                " recorded source"
            )
    if options.teacher:
        needs_frames(config)


def needs_port(config: RunConfig) -> None:
    """Refuse a service without a port. Raises `ConfigError`."""
    if not config.serve.port:
        raise ConfigError("serve.port: 0, name the port to listen on, e.g. serve.port=8443")


def needs_limited_folder(config: RunConfig) -> None:
    """Refuse teachers without a folder, or frames that their network cannot take. Raises `ConfigError`."""
    size = config.window.size
    if not config.limited.out:
        raise ConfigError("limited.out: empty, name the folder of the teachers' weights, e.g. limited.out=runs/limited")
    if size < 32 or size % _MULTIPLE:
        raise ConfigError(f"window.size: got {size}, the embedded network needs a multiple of 8 and at least 32")


def needs_steering(config: RunConfig) -> None:
    """Refuse a replay of laws that a run does not have. Raises `ConfigError`."""
    if not config.source.steering.strata:
        raise ConfigError(
            "source.steering.strata: empty, there are no laws to replay; give the config of a steered run"
        )
