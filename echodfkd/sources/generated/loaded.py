"""The generator of a source, loaded once in each process that makes clips of it."""

from __future__ import annotations

import functools

from echodfkd.config.sections.generator import GeneratorConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import InputError
from echodfkd.models.generators.batched import BatchedGenerator
from echodfkd.models.generators.build import build_generator
from echodfkd.storage.local_files import hash_files


@functools.lru_cache(maxsize=8)
def loaded_generator(kind: str, options: GeneratorConfig) -> BatchedGenerator:
    """The generator of a kind on this process's GPU if it holds one and the options do not say cpu, else on its CPU.

    So a process that is no actor of the generator's pool, such as a teacher's that replaces a clip, can make one too.

    Raises:
        InputError: its files cannot be used, or are others than those that the config was read with.
    """
    check_same_files(options)
    device = "cpu" if options.device == "cpu" else "auto"
    return BatchedGenerator(
        build_generator(PartConfig(kind=kind, generator=options), device, options.precision), options.batch
    )


def generator_notes(kind: str, options: GeneratorConfig) -> tuple[str, ...]:
    """Facts that the generator itself has to tell. It is loaded on the CPU for that, and not kept."""
    check_same_files(options)
    return build_generator(PartConfig(kind=kind, generator=options), "cpu", options.precision).notes


def check_same_files(options: GeneratorConfig) -> None:
    """Raise `InputError` if this machine has other files than ``generator.sha256`` says."""
    if options.weights and options.sha256 and (found := hash_files(options.weights)) != options.sha256:
        raise InputError(
            f"source.generator.weights: the files of {options.weights} have the sha256 {found[:16]}... here, the run"
            f" knows {options.sha256[:16]}... (source.generator.sha256); put the same files on every node"
        )
