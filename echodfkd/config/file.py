"""Read configs with overrides, check them, and write them back."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from echodfkd.config.pins import pin_initial, pin_sources
from echodfkd.config.rules.names import declared_types, type_at
from echodfkd.config.rules.run import check_config
from echodfkd.config.rules.types import fit, replace_given
from echodfkd.config.rules.values import check_values, explain
from echodfkd.config.run import RunConfig, StudyConfig
from echodfkd.config.sections.source import ChoiceSpec, ConditionSpec
from echodfkd.config.short_forms import Whole, expand_source, replace_distributions, shorten_source, sources_in
from echodfkd.core.errors import ConfigError, EchoDFKDError, InputError, one_line
from echodfkd.core.redaction import redact, redact_values
from echodfkd.storage.untrusted import parse_yaml

MAX_DEPTH = 16
"""Names in one override's key; no option lies deeper than half of that."""


def load_config(
    path: str | None,
    overrides: Sequence[str] = (),
    *,
    below: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> RunConfig:
    """Read one YAML file over the defaults, then ``key=value`` overrides.

    Args:
        path: of the file; None for none.
        overrides: texts.
        below: makes a further layer between the defaults and the file, of the values that file and overrides give.

    Raises:
        ConfigError: one sentence that names the option, its value and the allowed values.
    """
    try:
        layers = [_read_file(path)] if path is not None else []
        layers.append(_parse_overrides(overrides))
        if below is not None:
            layers.insert(0, dict(below(functools.reduce(_merged, layers))))
        config = _build(layers)
    except EchoDFKDError as error:
        raise ConfigError(str(error)) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the config could not be read: {one_line(error)}") from error
    check_config(config)
    check_variants(config)
    return pin_initial(pin_sources(config))


def _read_file(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise ConfigError(f"--config: no file {path}; `echodfkd configs` lists those that ship, and copies them")
    loaded = parse_yaml(Path(path).read_bytes(), f"--config: {path}")
    if not isinstance(loaded, dict):
        raise ConfigError(f"--config: {path} must hold `key: value` lines, got a {type(loaded).__name__}")
    return cast(dict[str, Any], _given_whole(loaded, RunConfig))


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """One tree of all ``key=value``; later ones win, a section's options are merged."""
    tree: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"override {redact(text)[:100]!r}: expected key=value, e.g. train.steps=100")
        names = key.split(".")
        if len(names) > MAX_DEPTH:
            raise ConfigError(f"override {redact(text)[:100]!r}: {len(names)} names deep, at most {MAX_DEPTH} are read")
        parsed = parse_yaml(value.encode("utf-8", "surrogatepass"), f"override {redact(text)[:100]!r}")
        parsed = _given_whole(parsed, type_at(names))
        for name in reversed(names):
            parsed = {name: parsed}
        tree = _merged(tree, parsed)
    return tree


def _given_whole(value: Any, kind: Any) -> Any:
    """The value with every mapping in it marked whose names a config chooses, and every distribution."""
    if not isinstance(value, dict):
        return value
    names = get_args(kind)[-1] if get_origin(kind) is dict else None
    types = declared_types(cast(Any, kind)) if dataclasses.is_dataclass(kind) else {}
    marked = {name: _given_whole(part, names or types.get(name)) for name, part in value.items()}
    return Whole(marked) if names is not None or kind in (ConditionSpec, ChoiceSpec) else marked


def _merged(below: Any, above: Any) -> Any:
    """Sections merged name by name; anything else is replaced, a mapping that is given as a whole too."""
    if isinstance(above, Whole) or not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    merged = {name: _merged(below[name], part) if name in below else part for name, part in above.items()}
    return type(below)({**below, **merged})


def check_variants(config: RunConfig) -> None:
    """Refuse variants of a study whose options do not fit the config. Raises `ConfigError`."""
    plain = dataclasses.replace(config, study=StudyConfig())
    for name, options in config.study.variants.items():
        try:
            override(plain, options)
        except ConfigError as error:
            raise ConfigError(f"study.variants.{name}: {error}") from error


def config_to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML without secrets, for ``--dry-run`` and the run folder."""
    from omegaconf import OmegaConf

    values = dataclasses.asdict(config)
    for source in sources_in(values):
        shorten_source(source)
    return OmegaConf.to_yaml(OmegaConf.create(redact_values(values)))


def config_from_dict(values: dict[str, Any]) -> RunConfig:
    """Build a config from plain values (a stored config.yaml, already resolved). Raises `ConfigError`."""
    if "${" in json.dumps(values, default=str):  # it would read this process's environment
        raise ConfigError("a stored config holds ${...}, which only a config file may")
    config = _build([values])
    check_config(config)
    return config


def override(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """A config with some ``key=value`` changed. Raises `ConfigError`."""
    try:
        changed = _build([dataclasses.asdict(config), _parse_overrides(overrides)])
    except InputError as error:
        raise ConfigError(str(error)) from error
    check_config(changed)
    return changed


def _build(layers: Sequence[dict[str, Any]]) -> RunConfig:
    """Layers of options over the defaults, later ones over earlier ones."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    given: dict[str, Any] = {}
    for layer in layers:
        values = copy.deepcopy(layer)
        for source in sources_in(values):
            expand_source(source)
        given = _merged(given, values)
    for source in sources_in(given):
        replace_distributions(source)
    check_values(given)
    fitted = fit(given, RunConfig)
    if "${" not in json.dumps(fitted):  # else OmegaConf resolves it; its merge is nine tenths of a config's time
        return cast(RunConfig, replace_given(RunConfig(), fitted, RunConfig))
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_defaults(), OmegaConf.create(fitted)))
    except OmegaConfBaseException as error:  # of ${...}: all else fits
        raise ConfigError(explain(error)) from error
    assert isinstance(config, RunConfig)
    fit(dataclasses.asdict(config), RunConfig)
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
