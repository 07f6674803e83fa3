"""Checks of a source's `generator`."""

from __future__ import annotations

from dataclasses import fields

from echodfkd.config.rules.pool import check_pool
from echodfkd.config.sections.generator import GENERATORS, SHIPPED, GeneratorConfig, GeneratorModelConfig
from echodfkd.config.sections.source import PartConfig
from echodfkd.core.errors import ConfigError


def check_generator(option: str, part: PartConfig) -> None:
    """Refuse options that the source's kind does not read, and a generator without files.

    Args:
        option: the source's name in the config.
        part: of any kind.

    Raises:
        ConfigError: names the option.
    """
    if part.kind not in GENERATORS:
        if part.generator != GeneratorConfig():
            raise ConfigError(
                f"{option}.generator: set, but {option}.kind is {part.kind}; generators are {', '.join(GENERATORS)}"
            )
        return
    usual = GeneratorConfig()
    for name in (*(field.name for field in fields(GeneratorModelConfig) if field.name != "sha256"), "compile"):
        if name not in GENERATORS[part.kind] and getattr(part.generator, name) != getattr(usual, name):
            raise ConfigError(
                f"{option}.generator.{name}: set, but {option}.kind is {part.kind}, which reads"
                f" {', '.join(GENERATORS[part.kind]) or 'none of them'}"
            )
    if part.path:
        raise ConfigError(
            f"{option}.path: set, but {option}.kind is {part.kind}; its files are {option}.generator.weights"
        )
    if not part.generator.weights and "weights" in GENERATORS[part.kind] and part.kind not in SHIPPED:
        raise ConfigError(
            f"{option}.generator.weights: empty, but {option}.kind is {part.kind}; name the file or folder of its"
            " published weights (docs/how-to/generators.md says from which address)"
        )
    check_pool(f"{option}.generator", part.generator)
