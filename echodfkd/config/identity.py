"""The identity of a run: the hash of the options that decide its numbers, and the folder that only this run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from echodfkd.config.file import config_to_yaml
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.option import declaration
from echodfkd.config.stored import CONFIG, stored_config
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.redaction import redact_values
from echodfkd.storage.files import LAYOUT, RunStorage, check_layout

IDENTITY = "identity.json"

_TODAYS_DEFAULTS = 3
"""First layout whose hashes are differences from today's defaults: a changed default raises it, with `LAYOUT`."""


def config_hash(config: RunConfig) -> str:
    """First 16 hex digits of the sha256 over the options that decide the numbers and differ from their defaults.

    Storage, placement and communication do not change the hash, so that a run may move to another cluster. Nor does
    an option that a later version adds, as long as it stands at its default.
    """
    values = redact_values(difference(config))  # a changed password leaves the run the same
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def difference(section: Any, usual: Any = None) -> dict[str, Any]:
    """The options of a section that decide numbers, have an effect and differ from ``usual``, as plain values.

    ``usual`` is another section of the same class; None stands for the defaults.
    """
    usual = type(section)() if usual is None else usual
    found: dict[str, Any] = {}
    for field in fields(section):
        declared, value, default = declaration(field), getattr(section, field.name), getattr(usual, field.name)
        if not declared.identity or (declared.needs and not getattr(section, declared.needs)):
            continue
        if is_dataclass(value):
            if own := difference(value, default):
                found[field.name] = own
        elif value != default:
            found[field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return difference(value) if is_dataclass(value) else value


def open_run_folder(config: RunConfig, teacher_id: str) -> RunStorage:
    """Make the run folder, or check that the one there is this very run and may be resumed.

    Raises:
        ConfigError: a run of this name exists, and is another one or must not be resumed.
        InputError: the folder cannot be written, or a newer version of this software made it.
    """
    storage = RunStorage(config.root)
    storage.check_readable("storage")
    if not storage.exists(IDENTITY):
        if storage.list(""):
            raise ConfigError(f"name: {config.root} exists and is not a run folder; give this run another name")
        storage.check_writable()
        identity = {"layout": LAYOUT, "config_hash": config_hash(config), "teacher_id": teacher_id}
        if not storage.create_once(IDENTITY, json.dumps(identity, indent=1).encode()):
            raise InputError(f"name: another process has just made the run folder {config.root}")
    elif config.on_exists == "refuse":
        raise ConfigError(f"name: a run {config.name} exists in {config.storage} and on_exists is refuse")
    if not storage.exists(CONFIG):  # new, or its maker died between the two files
        storage.write(CONFIG, config_to_yaml(config).encode())
    stored = _read_identity(storage)
    known = {"config_hash": run_hashes(storage, config), "teacher_id": {teacher_id}}
    for key, own in known.items():
        if stored.get(key) not in own:
            raise ConfigError(
                f"name: the run {config.name} in {config.storage} has another {key} ({stored.get(key)}, now"
                f" {', '.join(sorted(own))}); give this run another name"
            )
    return storage


def run_hashes(storage: RunStorage, config: RunConfig) -> set[str]:
    """The hashes by which this folder may know this config.

    The hash of an earlier layout covers other defaults, or all options of its version. The folder's config.yaml, which
    spells out all options, decides instead: if it means this config, the folder's hash is one of this run's.

    Raises:
        ConfigError: the folder's layout is an earlier one, and this version does not read its config.yaml.
    """
    own = config_hash(config)
    stored = _read_identity(storage) if storage.exists(IDENTITY) else {}  # a training loop may run without a folder
    if not stored or stored.get("layout", 1) >= _TODAYS_DEFAULTS:
        return {own}
    try:
        theirs = stored_config(storage)
    except (ConfigError, InputError) as error:
        raise ConfigError(
            f"name: an earlier version of echodfkd made the run {config.name} in {config.storage}, and this one does"
            f" not read its config.yaml ({error}); finish it with that version, or give this run another name"
        ) from error
    return {own, str(stored.get("config_hash"))} if config_hash(theirs) == own else {own}


def _read_identity(storage: RunStorage) -> dict[str, Any]:
    where = f"{storage.root}/{IDENTITY}"
    stored = storage.read_json(IDENTITY)
    check_layout(stored, where)
    for key in ("config_hash", "teacher_id"):
        if not isinstance(stored.get(key), str):
            raise InputError(f"{where} is not the identity of a run: its {key} is {str(stored.get(key))[:80]!r}")
    return stored
