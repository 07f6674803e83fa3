"""The identity of a run: the hash of the options that decide its numbers, and the folder that only this run resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
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

MOST_NAMED = 4
"""Options that a refusal names one by one."""

_HEAD = "# Every option of this run. Those that decide numbers and differ from their defaults:\n"

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


def own_options(config: RunConfig) -> dict[str, str]:
    """The options that decide numbers and differ from their defaults: dotted name and value, each in one line."""
    found = _flat(redact_values(difference(config)))
    return {name: json.dumps(value, ensure_ascii=False) for name, value in found}


def config_text(config: RunConfig) -> str:
    """config.yaml of a run folder: every option, below a comment with `own_options`. Later versions read all of it."""
    own = "".join(f"#   {name}: {value}\n" for name, value in own_options(config).items())
    return _HEAD + (own or "#   none\n") + config_to_yaml(config)


def open_run_folder(config: RunConfig, teacher_id: str) -> RunStorage:
    """Make the run folder, or check that the one there is this very run and may be resumed.

    Raises:
        ConfigError: a run of this name exists, and is another one or must not be resumed. More train.steps are the
            same run if `keep_longer` says so in its folder.
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
        storage.write(CONFIG, config_text(config).encode())
    stored = _read_identity(storage)
    if stored["config_hash"] not in run_hashes(storage, config):
        _check_longer(storage, config)
    if stored["teacher_id"] != teacher_id:
        raise ConfigError(
            f"name: the run {config.name} in {config.storage} has another teacher_id ({stored['teacher_id']}, now"
            f" {teacher_id}); give this run another name"
        )
    return storage


def _check_longer(storage: RunStorage, config: RunConfig) -> None:
    """Refuse options that are not those of the run in this folder, unless they only ask for more steps of it.

    Raises:
        ConfigError: names each option with its old and new value, and a way on.
    """
    start = f"name: the run {config.name} in {config.storage} has "
    remedy = "give this run another name; train.init_from then starts it from the weights of the other"
    try:
        theirs = stored_config(storage)
    except (ConfigError, InputError) as error:
        raise ConfigError(f"{start}other options, and its config.yaml is not read ({error}); {remedy}") from error
    changes = changed_options(theirs, config)
    if not changes:
        raise ConfigError(f"{start}another config_hash than its config.yaml gives; {remedy}")
    listed = [f"{name} ({old}, now {new})" for name, (old, new) in changes.items()]
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    said = f"{start}other options: {', '.join(listed[:MOST_NAMED])}{more}; "
    if set(changes) != {"train.steps"}:
        raise ConfigError(said + remedy)
    if config.train.steps < theirs.train.steps:
        raise ConfigError(f"{said}a run gets longer, never shorter; {remedy}")
    if config.optimizer.schedule != "constant":
        raise ConfigError(
            f"{said}a run gets longer only with optimizer.schedule=constant: {config.optimizer.schedule} spreads the"
            f" learning rate over all steps, and those done would not be the ones of a longer run; {remedy}"
        )
    replaced = [name for name in storage.list("quarantine") if name.endswith(".parquet")]
    rows = (row for name in replaced for row in storage.read_table(name).to_pylist())
    if any(isinstance(slot := row.get("slot"), int) and slot >= 0 for row in rows):
        raise ConfigError(
            f"{said}clips at fault were replaced in it, and train.steps decides by which others, so that those steps"
            f" would not be the ones of a longer run; {remedy}"
        )


def keep_longer(storage: RunStorage, config: RunConfig) -> None:
    """Let the folder know the run by this config too, if it only asks for more steps; its lease must be held."""
    stored = _read_identity(storage)
    if stored["config_hash"] in run_hashes(storage, config):
        return
    earlier = [*_earlier(stored), stored["config_hash"]]
    storage.write(CONFIG, config_text(config).encode())
    renewed = {**stored, "config_hash": config_hash(config), "earlier": earlier}
    storage.write(IDENTITY, json.dumps(renewed, indent=1).encode())


def changed_options(old: RunConfig, new: RunConfig) -> dict[str, tuple[str, str]]:
    """Options that decide numbers and differ: by dotted name, the old and the new value; "default" if unset."""
    olds, news = (dict(_flat(redact_values(difference(config)))) for config in (old, new))
    names = [name for name in {**olds, **news} if olds.get(name) != news.get(name)]
    return {name: (_shown(old, olds, name), _shown(new, news, name)) for name in names}


def _flat(values: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value


def _shown(config: RunConfig, flat: Mapping[str, Any], name: str) -> str:
    if name in flat:
        return str(flat[name])[:60]
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return "none" if value is None or is_dataclass(value) else str(value)[:60]


def _earlier(stored: Mapping[str, Any]) -> list[str]:
    """Hashes of the shorter runs that this one was."""
    found = stored.get("earlier")
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


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
        return {own, *(_earlier(stored) if stored.get("config_hash") == own else ())}
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
