"""Checks of single values: finite numbers, printable text, the declared bounds and choices of every option."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from echodfkd.config.sections.option import elements, walk
from echodfkd.core.errors import ConfigError, one_line
from echodfkd.core.redaction import redact

MAX_NUMBER = float(1 << 53)
"""Numbers above it are not exact in every program that reads a config."""
MAX_TEXT = 4096


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
            f"{where}: got {redact(values)[:80]!r}, allowed are up to {MAX_TEXT} printable characters on one line"
        )


def explain(error: Any) -> str:
    """OmegaConf's error for a ``${...}`` as one sentence with the option."""
    option = getattr(error, "full_key", None) or getattr(error, "key", None) or "config"
    return f"{option}: {one_line(getattr(error, 'msg', None) or error)}"
