"""Text that others may have written, read without trust: JSON, YAML, manifests, names that become paths.

Parsers of the standard libraries recurse, expand aliases and accept numbers that are not numbers; what they let
through or stumble over is refused here as one sentence.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from typing import Any

from echodfkd.errors import InputError
from echodfkd.records import PublishedCheckpoint
from echodfkd.storage import check_layout

MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000
"""Nodes of a YAML text after its aliases are expanded: nine lines of aliases can stand for a billion nodes."""
MAX_YAML_DEPTH = 50

_STUDENT = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
_PART = re.compile(r"(ledger|quarantine)/[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.parquet")
_FILE = re.compile(rf"(?:{_STUDENT}/)?[a-z0-9_]{{1,100}}\.(?:json|safetensors)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    """The plain values of a YAML text. Raises `InputError` as `check_yaml`, or where a value is no value."""
    import yaml

    check_yaml(data, where)
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where} is not readable YAML: {_yaml_fault(error)}") from error


def check_yaml(data: bytes, where: str) -> None:
    """Refuse a YAML text that would not fit into memory or onto the stack once it is read.

    Reads the events alone, which come one by one: neither depth nor aliases cost anything yet.

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
                    raise InputError(f"{where} has an alias *{event.anchor} inside of what it stands for")
                total += sizes.get(str(event.anchor), 1)
            if len(open_nodes) > MAX_YAML_DEPTH or total > MAX_YAML_NODES:
                raise InputError(
                    f"{where} is nested deeper than {MAX_YAML_DEPTH} levels or holds more than {MAX_YAML_NODES} values"
                    " once its aliases are expanded"
                )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is not readable YAML: {_yaml_fault(error)}") from error


def parse_manifest(data: bytes, *, folder: str, where: str) -> PublishedCheckpoint:
    """The commit that a checkpoint's manifest describes, with every name in it fit to be a path inside the run folder.

    Args:
        data: the file's content.
        folder: the folder that it lies in, relative to the run folder.
        where: its path, for the error's sentence.

    Raises:
        InputError: it is not a manifest, is of a newer layout, speaks of another folder, or names something outside
            of it.
    """
    values = parse_json_object(data, where)
    check_layout(values, where)
    known = {field.name for field in fields(PublishedCheckpoint)}
    faults = [
        *(f"it lacks {key!r}" for key in ("step", "folder", "students", "files") if key not in values),
        *(f"it has an unknown {key!r}" for key in values if key not in known),
    ] or _manifest_faults(values, folder)
    if faults:
        raise InputError(f"{where} is not a checkpoint's manifest: {faults[0]}")
    for key in ("students", "ledger", "quarantine"):
        values[key] = tuple(values.get(key, ()))
    return PublishedCheckpoint(**values)


def _manifest_faults(values: dict[str, Any], folder: str) -> list[str]:
    faults = []
    if type(values["step"]) is not int or not 0 <= values["step"] < 1 << 53:
        faults.append(f"its step is {values['step']!r}")
    elif folder != f"checkpoints/step_{values['step']:08d}":
        faults.append(f"it is of step {values['step']}")
    if values["folder"] != folder:
        faults.append(f"it belongs to the folder {values['folder']!r}, not {folder!r}")
    for key, allowed in (("students", re.compile(_STUDENT)), ("ledger", _PART), ("quarantine", _PART)):
        names = values.get(key, [])
        if not isinstance(names, list):
            faults.append(f"its {key} is a {type(names).__name__} instead of a list")
            continue
        wrong = [name for name in names if not (isinstance(name, str) and allowed.fullmatch(name))]
        faults += [f"its {key} names {name!r}" for name in wrong]
    if not isinstance(values.get("meta", {}), dict):
        faults.append("its meta is no object")
    if type(values.get("lease_epoch", 0)) is not int:
        faults.append("its lease_epoch is no number")
    for key, allowed in (("files", _FILE), ("parts", _PART)):
        faults += _entry_faults(key, values.get(key, {}), allowed)
    return faults


def _entry_faults(key: str, entries: Any, allowed: re.Pattern[str]) -> list[str]:
    if not isinstance(entries, dict):
        return [f"its {key} are no object"]
    faults = []
    for name, entry in entries.items():
        entry = entry if isinstance(entry, dict) else {}
        size, digest = entry.get("size"), entry.get("sha256")
        if not allowed.fullmatch(name):
            faults.append(f"it names the file {name!r}")
        elif type(size) is not int or not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            faults.append(f"size and sha256 of {name!r} are {size!r} and {digest!r}")
    return faults


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
