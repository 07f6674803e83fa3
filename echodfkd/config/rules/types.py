"""Fit plain values to the declared types of a config: nothing is turned into another type but 3 into 3.0 and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from echodfkd.config.rules.names import declared_types, suggestion
from echodfkd.core.errors import ConfigError
from echodfkd.core.redaction import redact

MAX_ENTRIES = 256
"""Most names of one mapping (students, members, parts ...) and entries of one list."""
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def fit(value: Any, kind: Any, option: str = "") -> Any:
    """The value as its declared type has it; texts with ``${`` stay as they are, to be resolved later.

    Args:
        value: plain values, as YAML has them.
        kind: a section's class, or the type of one option.
        option: its name; "" for the whole config.

    Raises:
        ConfigError: names the option, its value and what is expected.
    """
    if isinstance(value, str) and "${" in value:
        return value
    if dataclasses.is_dataclass(kind):
        return _fit_section(value, kind, option)
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return None if value is None else fit(value, inner[0], option)
    if typing.get_origin(kind) is dict:
        named = _mapping(value, option)
        return {name: fit(part, inner[1], f"{option}.{name}") for name, part in named.items()}
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            raise ConfigError(f"{option}: got {_shown(value)}, expected a list, e.g. [a, b]")
        _check_length(value, option)
        return [fit(part, inner[0], f"{option}[{place}]") for place, part in enumerate(value)]
    return _fit_scalar(value, kind, option)


def replace_given(default: Any, value: Any, kind: Any) -> Any:
    """The default with the given values in its place, section by section and name by name.

    Args:
        default: of the option's type; None if there is none.
        value: as `fit` returned it, without ``${``.
        kind: a section's class, or the type of one option.
    """
    inner = typing.get_args(kind)
    if value is None:
        return None
    if dataclasses.is_dataclass(kind):
        section = default if default is not None else typing.cast(Any, kind)()
        declared = declared_types(typing.cast(Any, kind))
        given = {name: replace_given(getattr(section, name), part, declared[name]) for name, part in value.items()}
        return dataclasses.replace(section, **given)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return replace_given(default, value, inner[0])
    if typing.get_origin(kind) is dict:
        below = default or {}
        return {**below, **{name: replace_given(below.get(name), part, inner[1]) for name, part in value.items()}}
    if typing.get_origin(kind) is list:
        return [replace_given(None, part, inner[0]) for part in value]
    return value


def _fit_section(value: Any, kind: Any, option: str) -> dict[str, Any]:
    declared = declared_types(kind)
    fitted = {}
    for name, part in _mapping(value, option).items():
        own = f"{option}.{name}" if option else name
        if name not in declared:
            allowed = ", ".join(sorted(declared))
            raise ConfigError(f"{own[:200]}: unknown option; allowed are {allowed}{suggestion(own[:200])}")
        fitted[name] = fit(part, declared[name], own)
    return fitted


def _fit_scalar(value: Any, kind: Any, option: str) -> Any:
    found = type(value)
    if found is kind:
        return value
    if kind is float and found is int:
        return float(value)
    if kind is int and found is float and value.is_integer():
        return int(value)
    if kind is str and found is int:
        return str(value)
    hint = "; put it in quotes if it is meant as text" if kind is str and found in (bool, float) else ""
    hint = "; the empty text is written ''" if kind is str and value is None else hint
    raise ConfigError(f"{option}: got {_shown(value)}, expected {_WORDS[kind]}{hint}")


def _mapping(value: Any, option: str) -> Mapping[str, Any]:
    where = option or "config"
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: got {_shown(value)}, expected names with values, e.g. {{name: value}}")
    _check_length(value, where)
    for name in value:
        if not isinstance(name, str):
            raise ConfigError(f"{where}: got the name {_shown(name)}, expected text; put it in quotes")
    return value


def _check_length(value: Mapping[Any, Any] | list[Any], option: str) -> None:
    if len(value) > MAX_ENTRIES:
        raise ConfigError(f"{option}: got {len(value)} entries, at most {MAX_ENTRIES} are allowed")


def _shown(value: Any) -> str:
    words = {None: "nothing (null)", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, Mapping | list):
        return f"a {type(value).__name__}"
    return repr(redact(value) if isinstance(value, str) else value)[:80]  # a cut secret would not be recognised
