"""Checks of single values: finite numbers, printable text, the declared bounds and choices of every option."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from echodfkd.config.sections.option import elements, walk
from echodfkd.core.errors import ConfigError, one_line

MAX_NUMBER = float(1 << 53)
"""Numbers above it are not exact in every program that reads a config."""
MAX_TEXT = 4096
MAX_CLIP_BYTES = 1 << 30


def check_options(section: Any, name: str = "") -> None:
    """Hold every option of a section against its declaration. Raises `ConfigError`.

    Args:
        section: a dataclass of options, e.g. a whole config.
        name: its own option name; empty for a whole config.
    """
    for option, declared, values in walk(section, name):
        for own, value in elements(option, values):
            if value is not None and (fault := declared.fault(value)):
                raise ConfigError(f"{own}: got {value!r}, {fault}")


def check_values(values: Any, option: str = "") -> None:
    """Refuse numbers and texts that no option can have. Raises `ConfigError`.

    Args:
        values: plain values: mappings, lists, numbers, texts.
        option: their option name; empty for a whole config.
    """
    where = option or "config"
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_values(str(key), f"{where}: a name in it")
            check_values(value, f"{option}.{key}" if option else str(key))
    elif isinstance(values, list | tuple):
        for place, value in enumerate(values):
            check_values(value, f"{where}[{place}]")
    elif isinstance(values, float) and not (math.isfinite(values) and abs(values) <= MAX_NUMBER):
        raise ConfigError(f"{where}: got {values:g}, must be a number between -{MAX_NUMBER:g} and {MAX_NUMBER:g}")
    elif isinstance(values, int) and abs(values) > MAX_NUMBER:
        raise ConfigError(f"{where}: got a number above {MAX_NUMBER:g}")
    elif isinstance(values, str) and not (values.isprintable() and len(values) <= MAX_TEXT):
        raise ConfigError(
            f"{where}: got {values[:80]!r}, allowed are up to {MAX_TEXT} printable characters on one line"
        )


def check_kinds(value: Any, kind: Any, option: str = "") -> None:
    """Refuse a list or a mapping in place of a name or number, which OmegaConf accepts inside lists.

    Args:
        value: of the option.
        kind: the type that it is declared with.
        option: its name; "" for the whole config.

    Raises:
        ConfigError: names the option.
    """
    if dataclasses.is_dataclass(value):
        for name, declared in typing.get_type_hints(type(value)).items():
            check_kinds(getattr(value, name), declared, f"{option}.{name}" if option else name)
    elif isinstance(value, Mapping | list):
        if kind in (str, int, float):
            raise ConfigError(f"{option}: got {str(value)[:80]} in it, expected plain names or numbers")
        inner = (typing.get_args(kind) or (None,))[-1]
        named = {f"{option}.{key}": part for key, part in value.items()} if isinstance(value, Mapping) else {}
        for where, part in named.items() if named else ((option, part) for part in value):
            check_kinds(part, inner, where)


def explain(error: Any) -> str:
    """An OmegaConf error as one sentence with the option and the allowed values."""
    option = getattr(error, "full_key", None) or getattr(error, "key", None) or "config"
    kind = type(error).__name__
    if kind == "ConfigKeyError":
        owner = getattr(error, "parent_node", None)
        allowed = sorted(str(key) for key in owner) if owner is not None else []
        hint = f"; allowed are {', '.join(allowed)}" if allowed else ""
        return f"{option}: unknown option{hint}"
    return f"{option}: {one_line(getattr(error, 'msg', None) or error)}"
