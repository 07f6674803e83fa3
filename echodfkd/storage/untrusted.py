"""Parse JSON and YAML that others may have written: the one place for files.

Standard parsers recurse, expand aliases, make dates of texts and accept NaN and numbers of any length; such input is
refused here with one sentence.
"""

from __future__ import annotations

import json
import math
import re
from types import NoneType
from typing import Any

from echodfkd.core.errors import InputError

MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000
"""Nodes of a YAML text after its aliases are expanded: nine lines of aliases can stand for a billion nodes."""
MAX_DEPTH = 50
"""Deepest nesting: whatever goes through the values by recursion has room for it."""
MAX_JSON_BYTES = 1 << 26
"""Largest JSON file: a record of a shard with the tracings of a thousand clips fits."""


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(data: bytes | str, where: str) -> Any:
    """The values of a JSON text.

    Raises:
        InputError: it is no JSON, not UTF-8, too long, too deep, or holds a number that no 8 bytes hold.
    """
    if len(data) > MAX_JSON_BYTES:
        raise InputError(f"{where} has {len(data)} bytes, at most {MAX_JSON_BYTES} are read as JSON")
    try:
        values = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not readable JSON: {error}") from error
    if _SURROGATE.search(data if isinstance(data, bytes) else data.encode("utf-8", "replace")):
        _check_text(values, where)
    level = [values] if type(values) in (dict, list) else []
    for _ in range(MAX_DEPTH):
        inner = (part for node in level for part in (node.values() if type(node) is dict else node))
        level = [part for part in inner if type(part) in (dict, list)]
        if not level:
            return values
    raise InputError(f"{where} is not readable JSON: nested deeper than {MAX_DEPTH} levels")


def _check_text(values: Any, where: str) -> None:
    """Refuse halves of a character, which JSON can name and no file can hold. Raises `InputError`."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} is not readable JSON: half of a character in it ({error.reason})") from error
    except RecursionError as error:
        raise InputError(f"{where} is not readable JSON: {error}") from error


def parse_json_object(data: bytes | str, where: str) -> dict[str, Any]:
    """As `parse_json`, of a text that must hold an object."""
    values = parse_json(data, where)
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold a JSON object, got a {type(values).__name__}")
    return values


def parse_yaml(data: bytes, where: str) -> Any:
    """The plain values of a YAML text: texts, finite numbers, null, lists, and mappings with texts as keys.

    Raises `InputError` as `check_yaml`, or for other values (dates, sets, bytes).
    """
    import yaml

    from echodfkd.storage.plain_yaml import load_plain_yaml

    check_yaml(data, where)
    try:
        values = load_plain_yaml(data.decode("utf-8-sig"))
        _check_plain(values)
        return values
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where} is not readable YAML: {_yaml_fault(error)}") from error


def _check_plain(values: Any) -> None:
    if isinstance(values, dict):
        if strange := [key for key in values if type(key) is not str]:
            raise ValueError(f"the key {strange[0]!r} is no text; put it in quotes")
        values = list(values.values())
    if isinstance(values, list):
        for part in values:
            _check_plain(part)
    elif type(values) is float and not math.isfinite(values):
        raise ValueError(f"{values} is not a number")
    elif type(values) is int and abs(values) >= 1 << 63:
        raise ValueError("a number is too large")
    elif type(values) not in (str, int, float, bool, NoneType):
        raise ValueError(f"a {type(values).__name__} is no plain value; quote a text")


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
            if len(open_nodes) > MAX_DEPTH or total > MAX_YAML_NODES:
                raise InputError(
                    f"{where} is nested deeper than {MAX_DEPTH} levels or holds more than {MAX_YAML_NODES} values"
                    " once its aliases are expanded"
                )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not readable YAML: {_yaml_fault(error)}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _whole(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= 1 << 63:
        raise ValueError(f"{text[:40]} is too large")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def _yaml_fault(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark is not None and problem else str(error)
