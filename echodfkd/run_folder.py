"""Whose run a folder is: made once with an identity, resumed only by the same run."""

from __future__ import annotations

import json

import yaml

from echodfkd.config import RunConfig
from echodfkd.config_file import config_from_dict, config_hash, config_to_yaml
from echodfkd.errors import ConfigError, InputError
from echodfkd.storage import LAYOUT, RunStorage, check_layout

IDENTITY = "identity.json"


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
    if not storage.exists("config.yaml"):  # new, or its maker died between the two files
        storage.write("config.yaml", config_to_yaml(config).encode())
    stored = json.loads(storage.read(IDENTITY))
    check_layout(stored, f"{config.root}/{IDENTITY}")
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

    A hash covers every option that there was when it was made, so that a version with more options has another one
    for the same run. The folder's own config.yaml decides: where it means this config, with what came later at its
    default, the hash in the folder's identity is one of this run's.
    """
    own = config_hash(config)
    try:
        stored = json.loads(storage.read(IDENTITY))["config_hash"]
        if stored != own and config_hash(config_from_dict(yaml.safe_load(storage.read("config.yaml")))) == own:
            return {own, str(stored)}
    except (FileNotFoundError, KeyError, ConfigError):  # the training loop alone, or options that are gone
        pass
    return {own}
