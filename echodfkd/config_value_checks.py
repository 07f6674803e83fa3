"""Refuses single values that no option can mean (not finite, beyond all bounds, text that no line can show), and says
OmegaConf's errors in one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from echodfkd.errors import ConfigError, one_line

MAX_NUMBER = float(1 << 53)
"""Numbers above it are not exact in every program that reads a config."""
MAX_TEXT = 4096
MAX_CLIP_BYTES = 1 << 30


def check_values(values: Any, option: str = "") -> None:
    """Walk over plain values. Raises `ConfigError`."""
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


def explain(error: Any) -> str:
    """One sentence out of an OmegaConf error: the option, what it got, what is allowed."""
    option = getattr(error, "full_key", None) or getattr(error, "key", None) or "config"
    kind = type(error).__name__
    if kind == "ConfigKeyError":
        owner = getattr(error, "parent_node", None)
        allowed = sorted(str(key) for key in owner) if owner is not None else []
        hint = f"; allowed are {', '.join(allowed)}" if allowed else ""
        return f"{option}: unknown option{hint}"
    return f"{option}: {one_line(getattr(error, 'msg', None) or error)}"
