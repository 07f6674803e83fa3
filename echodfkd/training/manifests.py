"""Which checkpoints there are, and what each has consumed: all that the processes of a stream need to know of them.

No torch: a process that imports it takes two seconds longer to start, and 130 MB. What a checkpoint holds beside
numbers is `checkpoints`' affair.
"""

from __future__ import annotations

import re
from collections.abc import Container

from echodfkd.errors import InputError
from echodfkd.records import PublishedCheckpoint
from echodfkd.storage import RunStorage, check_described
from echodfkd.training.plan import Intervals
from echodfkd.untrusted import parse_manifest

MANIFEST = "manifest.json"


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
    """The commit with the most steps, or None. Raises `InputError` where its manifest cannot be read."""
    for folder in reversed(storage.list("checkpoints")):  # names sort by step
        commit = _read_manifest(storage, folder)
        if commit is not None:
            return commit
    return None


def read_consumed(storage: RunStorage, checkpoint: PublishedCheckpoint) -> Intervals:
    """Slots of the plan that the commit has consumed. Raises `InputError`."""
    return Intervals.from_json(read_verified(storage, checkpoint, "consumed.json"))


def _read_manifest(storage: RunStorage, folder: str) -> PublishedCheckpoint | None:
    """The commit in a folder; None where there is no manifest, or the folder's name is not that of a step."""
    if not re.fullmatch(r"checkpoints/step_\d{8,18}", folder):
        return None
    try:
        text = storage.read(f"{folder}/{MANIFEST}")
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
