"""Find checkpoints by their manifests, and read the slots that each has consumed.

The processes of a stream import this module, so it does not import torch, which costs two seconds and 130 MB.
"""

from __future__ import annotations

import re
import time
from collections.abc import Container
from dataclasses import fields
from types import NoneType
from typing import Any

from echodfkd.core.errors import InputError
from echodfkd.core.records import PublishedCheckpoint
from echodfkd.storage.files import RunStorage, check_described, check_layout
from echodfkd.storage.intervals import Intervals
from echodfkd.storage.untrusted import MAX_JSON_BYTES, parse_json_object

MANIFEST = "manifest.json"

_STUDENT = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
_PART = re.compile(r"(ledger|quarantine)/[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.parquet")
_FILE = re.compile(rf"(?:{_STUDENT}/)?[a-z0-9_]{{1,100}}\.(?:json|safetensors)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def checkpoint_folder(step: int) -> str:
    """Folder of a step's commit, relative to the run folder."""
    return f"checkpoints/step_{step:08d}"


def list_checkpoints(storage: RunStorage, known: Container[str] = ()) -> list[PublishedCheckpoint]:
    """Every commit, by step. A folder without a manifest is not one: its writer died or is still at work.

    Args:
        storage: the run folder.
        known: folders of commits that the caller has: they never change, and are not read again.

    Raises:
        InputError: a manifest cannot be read.
    """
    folders = (folder for folder in storage.list("checkpoints") if folder not in known)
    commits = (_read_manifest(storage, folder) for folder in folders)
    return sorted((commit for commit in commits if commit is not None), key=lambda commit: commit.step)


def latest_checkpoint(storage: RunStorage) -> PublishedCheckpoint | None:
    """The commit with the most steps, or None. Raises `InputError` if its manifest cannot be read."""
    for folder in reversed(storage.list("checkpoints")):  # names sort by step
        commit = _read_manifest(storage, folder)
        if commit is not None:
            return commit
    return None


def read_checkpoint(storage: RunStorage, step: int) -> PublishedCheckpoint | None:
    """The commit of this step, or None. Raises `InputError` if its manifest cannot be read."""
    return _read_manifest(storage, checkpoint_folder(step))


def wait_for_checkpoint(storage: RunStorage, step: int, *, poll_s: float = 0.5) -> None:
    """Return once the commit of this step is there."""
    while read_checkpoint(storage, step) is None:
        time.sleep(poll_s)


def read_consumed(storage: RunStorage, checkpoint: PublishedCheckpoint) -> Intervals:
    """Slots of the plan that the commit has consumed. Raises `InputError`."""
    return Intervals.from_json(read_verified(storage, checkpoint, "consumed.json"))


def _read_manifest(storage: RunStorage, folder: str) -> PublishedCheckpoint | None:
    """The commit in a folder; None if there is no manifest, or the folder's name is not that of a step."""
    if not re.fullmatch(r"checkpoints/step_\d{8,18}", folder):
        return None
    try:
        text = storage.read(f"{folder}/{MANIFEST}", MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_manifest(text, folder=folder, where=f"{storage.root}/{folder}/{MANIFEST}")


def read_verified(storage: RunStorage, checkpoint: PublishedCheckpoint, file: str) -> bytes:
    """The file's bytes, checked against the manifest before anything parses them."""
    path = f"{storage.root}/{checkpoint.folder}/{file}"
    listed = checkpoint.files.get(file)
    if listed is None:
        raise InputError(f"{path} is not in the checkpoint's manifest")
    try:
        data = storage.read(f"{checkpoint.folder}/{file}")
    except FileNotFoundError as error:
        hint = ": older checkpoints lose it (train.keep_resume)" if file.endswith("/resume.safetensors") else ""
        raise InputError(f"{path} is missing, but the checkpoint's manifest names it{hint}") from error
    check_described(path, data, listed)
    return data


def parse_manifest(data: bytes, *, folder: str, where: str) -> PublishedCheckpoint:
    """The commit that a checkpoint's manifest describes, with every name in it fit to be a path inside the run folder.

    Args:
        data: the file's content.
        folder: the folder that it lies in, relative to the run folder.
        where: its path, for the error message.

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
    faults += _meta_faults(values.get("meta", {}))
    if type(values.get("lease_epoch", 0)) is not int:
        faults.append("its lease_epoch is no number")
    for key, allowed in (("files", _FILE), ("parts", _PART)):
        faults += _entry_faults(key, values.get(key, {}), allowed)
    return faults


def _meta_faults(meta: Any) -> list[str]:
    """Faults that a resumed run or a report would meet."""
    if not isinstance(meta, dict):
        return ["its meta is no object"]
    texts = ("config_hash", "teacher_id")
    faults = [f"its {key} is no text" for key in texts if not isinstance(meta.get(key, ""), str)]
    if type(meta.get("quarantined", 0)) is not int or meta.get("quarantined", 0) < 0:
        faults.append(f"its quarantined is {meta['quarantined']!r}")
    states = meta.get("early_stopping", {})
    for state in states.values() if isinstance(states, dict) else [None]:
        values = state if isinstance(state, dict) else {"": ""}
        allowed = {"best": (int, float, NoneType), "stopped_at": (int, NoneType)}
        wrong = [key for key, value in values.items() if type(value) not in allowed.get(key, (int, float))]
        faults += [f"its early_stopping has {key!r} {str(values[key])[:80]!r}" for key in wrong]
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
