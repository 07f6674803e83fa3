"""Students on the Hugging Face hub: pull one by ``hf://OWNER/NAME``, push an exported folder.

huggingface_hub does both, with its own cache, endpoint (``HF_ENDPOINT``) and token (``HF_TOKEN``, or the file that ``hf
auth login`` writes), which is not read here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from echodfkd.core.errors import InputError, RunError, one_line
from echodfkd.storage.files import MAX_TABLE_BYTES, RunStorage

SCHEME = "hf://"
DEFAULT_FILE = "student.safetensors"
_REPO = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_ADDRESS = re.compile(rf"({_REPO})(?:@([A-Za-z0-9][\w.-]{{0,99}}))?(?:/([A-Za-z0-9][\w.-]{{0,99}}))?", re.ASCII)


def pull_student(address: str, *, option: str) -> str:
    """Fetch a file of a model repository into the hub's cache on this machine; its path there.

    Args:
        address: ``hf://OWNER/NAME``, ``@REVISION`` and ``/FILE`` if they are not main and `DEFAULT_FILE`.
        option: names the address in errors.

    Raises:
        InputError: there is no such file, it is too large, no permission, no network, or the package is missing.
    """
    found = _ADDRESS.fullmatch(address.removeprefix(SCHEME).rstrip("/"))
    if not found:
        raise InputError(f"{option}: got {address}, expected {SCHEME}OWNER/NAME, {SCHEME}OWNER/NAME@REVISION/FILE")
    repo, revision, file = found[1], found[2], found[3] or DEFAULT_FILE
    hub = _import_hub(option)
    try:
        size = hub.hf_hub_download(repo, file, revision=revision, dry_run=True).file_size
        if size > MAX_TABLE_BYTES:
            raise InputError(f"{option}: {address} has {size} bytes, at most {MAX_TABLE_BYTES} are read")
        return str(hub.hf_hub_download(repo, file, revision=revision))
    except InputError:
        raise
    except Exception as error:  # those of its HTTP client as well, which it does not wrap
        raise InputError(f"{option}: {address} cannot be fetched: {one_line(error)}") from error


def push_folder(folder: str, files: Sequence[str], repo: str) -> str:
    """Upload files of a folder to a model repository as one commit; the commit's address.

    A repository that does not exist is made, and is private.

    Raises:
        InputError: no such name of a repository, or the package is missing.
        RunError: the hub refuses, or cannot be reached.
    """
    check_repo(repo)
    hub, storage = _import_hub("--push"), RunStorage(folder)
    added = [hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=storage.read(file)) for file in files]
    try:
        api = hub.HfApi(library_name="echodfkd")
        api.create_repo(repo, private=True, exist_ok=True)
        return str(api.create_commit(repo, added, commit_message="Export of EchoDFKD").commit_url)
    except Exception as error:
        raise RunError(f"--push: {repo} cannot be written: {one_line(error)}") from error


def check_repo(repo: str) -> None:
    """Raise `InputError` if this is no name of a repository."""
    if not re.fullmatch(_REPO, repo, re.ASCII):
        raise InputError(f"--push: got {repo}, expected OWNER/NAME of a repository of the Hugging Face hub")


def _import_hub(option: str) -> Any:
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"{option}: the hub needs huggingface_hub, which cannot be imported ({one_line(error)}); install the extra:"
            " pip install 'echodfkd[hub]'"
        ) from error
    importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    return hub
