"""Open file systems by URL, retry requests to object stores, and create an object at most once.

Every request may fail on the way: a busy store answers 503 SlowDown, connections break, answers are lost. botocore
tries a request ATTEMPTS times with a growing random pause, and s3fs repeats a request that still failed (5 times; it
also repeats a read that broke off), which together bridges some two minutes. Writing or deleting an object twice has
the same effect as once; only `create_object_once` needs more care.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec

from echodfkd.core.errors import EchoDFKDError, one_line

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
"""Longest silence of the store in one request; a longer one counts as failed."""
ATTEMPTS = 6
"""Attempts of botocore, in its `standard` mode: pauses of at most 1, 2, 4, 8 and 16 s, each drawn at random."""
CONFLICTS = 8
"""Times that an object is created again after the store said that another request for it was under way."""

_WRITER = "echodfkd-writer"
"""Metadata key of an object that was made once: the mark of the call that made it."""


def open_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path in it.

    Listings of an object store are not cached: objects that another process has made since would be missing.

    Raises:
        ValueError, ImportError: no such protocol, or its package is not installed.
    """
    if not _is_s3(url.partition("://")[0]):
        return fsspec.core.url_to_fs(url)
    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S, "retries": retries}
    return fsspec.core.url_to_fs(url, use_listings_cache=False, config_kwargs=config)


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Turn the errors of every store (no network, no credentials, a client's bug) into `OSError`."""
    try:
        yield
    except (OSError, EchoDFKDError):
        raise
    except Exception as error:
        raise OSError(one_line(error)) from error


def list_objects(fs: Any, path: str) -> dict[str, int]:
    """Names directly under a path, with the sizes of objects. Raises `FileNotFoundError` if there are none."""
    with as_os_errors():
        entries = fs.ls(path, detail=True)
    own = path.rstrip("/")  # clients that know folders (pyarrow) leave an object that stands for one
    named = {str(entry["name"]).rstrip("/"): int(entry.get("size") or 0) for entry in entries}
    return {name.rsplit("/", 1)[-1]: size for name, size in named.items() if name != own}


def read_object(fs: Any, path: str, limit: int) -> bytes:
    """The first ``limit`` bytes of an object, in one request. Raises `OSError`."""
    with as_os_errors():
        try:
            return bytes(fs.cat_file(path, end=limit))
        except OSError as error:  # a store refuses any range of an object without bytes
            if isinstance(error, FileNotFoundError) or fs.size(path) != 0:
                raise
            return b""


def create_object_once(fs: Any, path: str, data: bytes) -> bool:
    """Write an object whole, unless it exists. Returns whether this call made it.

    The store decides (If-None-Match). If it made the object but its answer was lost, the request is sent again and
    refused because of the first one. So that this is not taken for another writer's object, each call writes its own
    mark into the object's metadata and, if refused, checks for that mark. Equal bytes are no proof: two runs may well
    write the same.

    Raises:
        OSError: the store cannot be reached or refuses for another reason.
    """
    if not _is_s3(*([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    mark = uuid.uuid4().hex
    for conflicts in range(CONFLICTS):
        try:
            fs.pipe_file(path, data, mode="create", Metadata={_WRITER: mark})
            return True
        except OSError as error:
            status = _http_status(error)
            if status == 409 and conflicts < CONFLICTS - 1:  # another request for it is under way: not yet decided
                time.sleep(0.1 * 2**conflicts)
            elif status == 412:
                try:
                    return bool(fs.metadata(path).get(_WRITER) == mark)
                except FileNotFoundError:
                    continue  # it existed and was deleted since
            else:
                raise
    raise FileExistsError(f"{path}: {CONFLICTS} times in a row another writer's object came and went")


def _is_s3(*protocols: str) -> bool:
    return "s3" in protocols or "s3a" in protocols


def _http_status(error: OSError) -> int | None:
    """Status of the store's answer, if the error comes from one. Not all stores name the condition."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 412 if isinstance(error, FileExistsError) else None
