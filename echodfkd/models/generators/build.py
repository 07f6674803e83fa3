"""Build the generator that a source names, by kind; a kind's module is imported when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace

from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.generators.protocol import Generator
from echodfkd.models.generators.schedulers import Sampling
from echodfkd.models.teachers.build import pick_device


def build_generator(options: PartConfig, device: str, precision: str) -> Generator:
    """Load the generator of this source.

    Args:
        options: of the source; its kind names the generator, its section ``generator`` the files and settings.
        device: auto (a GPU if this process holds one), cpu or cuda.
        precision: fp32 or bf16.

    Raises:
        InputError: its files cannot be used.
        ConfigError: no such kind, or cuda without a CUDA device.
    """
    if options.kind not in _BUILDERS:
        raise ConfigError(f"source.kind: got {options.kind!r}, generators are {', '.join(_BUILDERS)}")
    return _BUILDERS[options.kind](options.generator, device, precision)


def _published(kind: str) -> Callable[[GeneratorConfig, str, str], Generator]:
    """A builder of others' published files: ``load_KIND`` of the module of that name."""

    def build(options: GeneratorConfig, device: str, precision: str) -> Generator:
        module = importlib.import_module(f"echodfkd.models.generators.{kind}")
        device = pick_device(device, "source.generator.device")
        sampling = Sampling(
            device, precision, options.scheduler, options.steps, options.guidance, compile=options.compile
        )
        generator: Generator = getattr(module, f"load_{kind}")(options.weights, sampling)
        return generator

    return build


def _latent_video(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.latent_video import LatentVideo, load_latent_model
    from echodfkd.models.generators.schedulers import compile_network

    model = load_latent_model(options.weights)
    if options.compile:
        compile_network(model.flow)
    return LatentVideo(
        model,
        device=pick_device(device, "source.generator.device"),
        precision=precision,
        steps=options.steps,
        guidance=options.guidance,
    )


def _painted(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.painted import Painted, load_painter

    return Painted(load_painter(options.weights), pick_device(device, "source.generator.device"))


def _noise(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.plain_noise import PlainNoise

    return PlainNoise()


def _guided(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.plain_noise import GuidedNoise
    from echodfkd.models.teachers.graded import graded_teacher

    try:
        teacher = replace(graded_teacher("embedded", options.weights), name=options.weights)
    except InputError as error:
        raise InputError(str(error).replace("teacher.weights", "source.generator.weights", 1)) from error
    return GuidedNoise(teacher, options.steps, pick_device(device, "source.generator.device"))


def _adversarial(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.painted import InTraining

    return InTraining(options.weights, pick_device(device, "source.generator.device"))


PUBLISHED = ("echonet_synthetic", "echoflow", "echolvfm", "free_echo", "diffecho")
"""Kinds of others' published files (docs/reference/published-generators.md)."""
_BUILDERS: dict[str, Callable[[GeneratorConfig, str, str], Generator]] = {
    **{kind: _published(kind) for kind in PUBLISHED},
    "latent_video": _latent_video,
    "painted": _painted,
    "noise": _noise,
    "guided": _guided,
    "adversarial": _adversarial,
}
"""Options, device and precision -> generator, by the source's kind."""
