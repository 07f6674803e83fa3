"""Read configs with overrides, check them, and write them back."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from echodfkd.config.pins import pin_initial, pin_tables
from echodfkd.config.rules.run import check_config
from echodfkd.config.rules.values import check_kinds, explain
from echodfkd.config.run import RunConfig
from echodfkd.config.short_forms import expand_source, replace_distributions, shorten_source, sources_in
from echodfkd.core.errors import ConfigError, EchoDFKDError, one_line
from echodfkd.core.redaction import redact_values
from echodfkd.storage.untrusted import check_yaml


def load_config(path: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read one YAML file over the defaults, then ``key=value`` overrides.

    Raises:
        ConfigError: one sentence that names the option, its value and the allowed values.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        layers = []
        if path is not None:
            if not Path(path).is_file():
                raise ConfigError(f"--config: no file {path}; configs/ holds the ones that ship")
            data = Path(path).read_bytes()
            check_yaml(data, f"--config: {path}")
            loaded = OmegaConf.load(io.StringIO(data.decode("utf-8-sig")))
            if not OmegaConf.is_dict(loaded):
                raise ConfigError(f"--config: {path} must hold `key: value` lines, got a {type(loaded).__name__}")
            layers.append(loaded)
        for text in overrides:
            if "=" not in text:
                raise ConfigError(f"override {text!r}: expected key=value, e.g. train.steps=100")
            check_yaml(text.partition("=")[2].encode("utf-8", "surrogatepass"), f"override {text[:100]!r}")
        layers.append(OmegaConf.from_dotlist(list(overrides)))
        config = _build(layers)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    except Exception as error:
        if isinstance(error, EchoDFKDError):
            raise ConfigError(str(error)) from error
        raise ConfigError(f"the config could not be read: {one_line(error)}") from error
    check_config(config)
    return pin_initial(pin_tables(config))


def config_to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML without secrets, for ``--dry-run`` and the run folder."""
    from omegaconf import OmegaConf

    values = dataclasses.asdict(config)
    for source in sources_in(values):
        shorten_source(source)
    return OmegaConf.to_yaml(OmegaConf.create(redact_values(values)))


def config_from_dict(values: dict[str, Any]) -> RunConfig:
    """Build a config from plain values (a stored config.yaml, already resolved). Raises `ConfigError`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if "${" in json.dumps(values, default=str):  # it would read this process's environment
        raise ConfigError("a stored config holds ${...}, which only a config file may")
    try:
        config = _build([OmegaConf.create(values)])
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    check_config(config)
    return config


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A config with some ``key=value`` changed. Raises `ConfigError`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        layers = [OmegaConf.create(dataclasses.asdict(config)), OmegaConf.from_dotlist(list(overrides))]
        changed = _build(layers)
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    check_config(changed)
    return changed


def _build(layers: Sequence[Any]) -> RunConfig:
    """Layers of options over the defaults, later ones over earlier ones."""
    from omegaconf import OmegaConf

    given: Any = OmegaConf.create({})
    for layer in layers:
        values = OmegaConf.to_container(layer)
        for source in sources_in(values):
            expand_source(source)
        given = OmegaConf.merge(given, OmegaConf.create(values))
    values = OmegaConf.to_container(given)
    for source in sources_in(values):
        replace_distributions(source)
    config = OmegaConf.to_object(OmegaConf.merge(_defaults(), OmegaConf.create(values)))
    assert isinstance(config, RunConfig)
    check_kinds(config, RunConfig)
    return config


@functools.cache
def _defaults() -> Any:
    """Every option's type and default, made once because that takes a tenth of a second. A merge copies it."""
    from omegaconf import OmegaConf

    defaults = OmegaConf.structured(RunConfig)
    _make_writable(defaults)
    return defaults


def _make_writable(node: Any) -> None:
    """Frozen dataclasses make OmegaConf nodes read-only, which a merge must not be."""
    from omegaconf import Container, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in range(len(node)) if OmegaConf.is_list(node) else node:
        child = node._get_node(key)
        if isinstance(child, Container):
            _make_writable(child)
