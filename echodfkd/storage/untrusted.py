"""Parse JSON and YAML that others may have written.

Standard parsers recurse, expand aliases and accept NaN; such input is refused here with one sentence.
"""

from __future__ import annotations

import json
import math
from typing import Any

from echodfkd.core.errors import InputError

MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000
"""Nodes of a YAML text after its aliases are expanded: nine lines of aliases can stand for a billion nodes."""
MAX_YAML_DEPTH = 50


def parse_json(data: bytes | str, where: str) -> Any:
    """The values of a JSON text.

    Raises:
        InputError: it is no JSON, not UTF-8, too deep, or holds a number that is not finite.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not readable JSON: {error}") from error


def parse_json_object(data: bytes | str, where: str) -> dict[str, Any]:
    """As `parse_json`, of a text that must hold an object."""
    values = parse_json(data, where)
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold a JSON object, got a {type(values).__name__}")
    return values


def parse_yaml(data: bytes, where: str) -> Any:
    """The plain values of a YAML text. Raises `InputError` as `check_yaml`, or if a scalar is invalid."""
    import yaml

    from echodfkd.storage.plain_yaml import load_plain_yaml

    check_yaml(data, where)
    try:
        return load_plain_yaml(data.decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where} is not readable YAML: {_yaml_fault(error)}") from error


def check_yaml(data: bytes, where: str) -> None:
    """Refuse a YAML text that would not fit into memory or onto the stack once it is read.

    Reads only the events, one by one: neither depth nor aliases cost anything yet.

    Raises:
        InputError: too long, too deep, too many nodes with aliases expanded, an alias inside itself, or no YAML.
    """
    import yaml

    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"{where} has {len(data)} bytes, a config may have {MAX_YAML_BYTES}")
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor and number of nodes so far, outermost first
    total = 0
    try:
        for event in yaml.parse(data.decode("utf-8-sig"), Loader=yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                open_nodes.append((event.anchor, total))
                total += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = total - before
            elif isinstance(event, yaml.ScalarEvent):
                total += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.AliasEvent):
                if any(anchor == event.anchor for anchor, _ in open_nodes):
                    raise InputError(f"{where} has an alias *{event.anchor} inside of its own value")
                total += sizes.get(str(event.anchor), 1)
            if len(open_nodes) > MAX_YAML_DEPTH or total > MAX_YAML_NODES:
                raise InputError(
                    f"{where} is nested deeper than {MAX_YAML_DEPTH} levels or holds more than {MAX_YAML_NODES} values"
                    " once its aliases are expanded"
                )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not readable YAML: {_yaml_fault(error)}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def _yaml_fault(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark is not None and problem else str(error)
