"""Build the generator that a source names, by kind; a kind's module is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable

from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import ConfigError
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


def _sampling(options: GeneratorConfig, device: str, precision: str) -> Sampling:
    device = pick_device(device, "source.generator.device")
    return Sampling(device, precision, options.scheduler, options.steps)


def _echonet_synthetic(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.echonet_synthetic import load_echonet_synthetic

    return load_echonet_synthetic(options.weights, _sampling(options, device, precision))


def _echoflow(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.echoflow import load_echoflow

    return load_echoflow(options.weights, _sampling(options, device, precision))


def _echolvfm(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.echolvfm import load_echolvfm

    return load_echolvfm(options.weights, _sampling(options, device, precision))


def _free_echo(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.free_echo import load_free_echo

    return load_free_echo(options.weights, _sampling(options, device, precision))


def _latent_video(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.latent_video import LatentVideo, load_latent_model

    return LatentVideo(
        load_latent_model(options.weights),
        device=pick_device(device, "source.generator.device"),
        precision=precision,
        steps=options.steps,
        guidance=options.guidance,
    )


def _painted(options: GeneratorConfig, device: str, precision: str) -> Generator:
    from echodfkd.models.generators.painted import Painted, load_painter

    return Painted(load_painter(options.weights), pick_device(device, "source.generator.device"))


_BUILDERS: dict[str, Callable[[GeneratorConfig, str, str], Generator]] = {
    "echonet_synthetic": _echonet_synthetic,
    "echoflow": _echoflow,
    "echolvfm": _echolvfm,
    "free_echo": _free_echo,
    "latent_video": _latent_video,
    "painted": _painted,
}
"""Options, device and precision -> generator, by the source's kind."""
