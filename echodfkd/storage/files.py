"""A run folder on a local disk or an object store, behind the few calls that the run needs.

Every file appears whole or not at all. An object store does that by itself: a PUT shows the whole object. On a
local disk the bytes go to a temporary file beside it, are flushed to the disk (fsync) and only then take the
name, and the folder's own entry is flushed as well: once a call has returned, its file outlives a loss of power.
Object stores have no rename, so that no *protocol* here relies on one: a commit is a file made by `create_once`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from echodfkd.core.errors import InputError, one_line
from echodfkd.storage.local_folder import PARTIAL, LocalFolder, read_regular
from echodfkd.storage.object_store import as_os_errors, create_object_once, list_objects, open_filesystem, read_object
from echodfkd.storage.untrusted import MAX_JSON_BYTES, parse_json_object

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_BYTES = 1 << 28
"""Largest file of the user's that is read as a whole if its size is not known beforehand."""

MAX_FILE_BYTES = 1 << 32
"""Largest file of a run folder that is read: the weights and Adam's moments of the largest student fit."""

_OF_CHECKPOINT = re.compile(r"(.+)/(checkpoints/step_\d{8,18}/[^/]+(?:/[^/]+)?)", re.DOTALL)

LAYOUT = 3
"""Version of the files in run folders and folders of clips. 1 is that of version 0.1, which wrote no number; since 3 a
run is known by the difference of its config from the defaults."""


def check_layout(values: Mapping[str, object], where: str) -> None:
    """Raise `InputError` if ``values`` (an identity or a manifest) have a newer layout than this software's."""
    found = values.get("layout", 1)
    if type(found) is not int or found > LAYOUT:
        raise InputError(
            f"{where} has layout {found}, this version of echodfkd reads layouts up to {LAYOUT}: use a newer version"
        )


def describe(data: bytes) -> dict[str, object]:
    """Size and sha256 of a file, as commit records and manifests hold them."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def check_described(path: str, data: bytes, known: Mapping[str, object]) -> None:
    """Raise `InputError` if the bytes are not those that a manifest describes."""
    found = describe(data)
    if found["sha256"] != known["sha256"]:
        raise InputError(
            f"{path} is damaged: sha256 {str(found['sha256'])[:16]}..., {found['size']} bytes, but the manifest says"
            f" {str(known['sha256'])[:16]}..., {known['size']} bytes"
        )


def read_bytes(path: str) -> bytes:
    """The whole content of one file, a path or an fsspec URL; one of a checkpoint is read as a run's files are.

    Raises:
        OSError: it cannot be read, or has more than `MAX_TABLE_BYTES`.
        InputError: it is a file of a checkpoint, and a link.
    """
    if of_run := _OF_CHECKPOINT.fullmatch(path):
        with as_os_errors():
            return RunStorage(of_run[1]).read(of_run[2], MAX_TABLE_BYTES)
    with as_os_errors():  # no such protocol, a package that is missing, a path with a NUL, no credentials ...
        fs, base = open_filesystem(path)
        if "file" in fs.protocol:
            return read_regular(base, MAX_TABLE_BYTES)
    data = read_object(fs, base, MAX_TABLE_BYTES + 1)
    if len(data) > MAX_TABLE_BYTES:
        raise OSError(f"it has more than {MAX_TABLE_BYTES} bytes")
    return data


def read_inside(fs: Any, base: str, name: str, limit: int) -> bytes:
    """The content of a file in a folder of unknown origin, which may hold a link, a pipe or a huge file in its place.

    Args:
        fs: the file system.
        base: the folder.
        name: the file's name relative to it.
        limit: most bytes.

    Raises:
        OSError: there is no such file, it is not a plain file, a link in it leads out of the folder, or it has
            more than ``limit`` bytes.
    """
    path = f"{base}/{name}"
    if "file" in fs.protocol:
        real = os.path.realpath(path)
        if os.path.commonpath([real, os.path.realpath(base)]) != os.path.realpath(base):
            raise OSError(f"{name} is a link that leads out of the folder")
        if os.path.exists(real) and not os.path.isfile(real):
            raise OSError(f"{name} is not a plain file")
        if os.path.getsize(real) > limit:
            raise OSError(f"{name} has {os.path.getsize(real)} bytes, at most {limit} are read")
        return read_regular(real, limit)
    data = read_object(fs, path, limit + 1)
    if len(data) > limit:
        raise OSError(f"{name} has more than {limit} bytes")
    return data


class RunStorage:
    """Files under one root (a path or an fsspec URL such as ``s3://bucket/prefix``), named by relative paths.

    A stranger may have filled the folder: on a disk, links in it are not followed, pipes and devices not opened, and
    no read is without a bound (`LocalFolder`).

    Raises:
        InputError: the root cannot be created or written (only from `check_writable`), or something else stands in
            a file's or folder's place.
        OSError: by every method, if the disk or the store fails.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.fs, self._base = open_filesystem(self.root)
        self.is_local = "file" in self.fs.protocol
        self._local = LocalFolder(self._base) if self.is_local else None

    def path(self, name: str) -> str:
        """Absolute path or key of ``name``. Raises `InputError` if the name leads out of the root."""
        if name.startswith(("/", "~")) or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise InputError(f"{self.root}: {name!r} is not the name of a file inside of this folder")
        return f"{self._base}/{name}" if name else self._base

    def check_readable(self, option: str) -> None:
        """Raise `InputError` if the root cannot be listed; ``option`` named it."""
        try:
            self.list("")  # a listing: a store says why it refuses one, but not why it refuses a HEAD
        except Exception as error:  # each store has its own errors: no credentials, no network, no permission
            raise InputError(f"{option}: {self.root} cannot be read: {self._reason(error)}") from error

    def check_writable(self, option: str = "storage") -> None:
        """Raise `InputError` if nothing can be written under the root; ``option`` named it."""
        try:
            probe = f".writable-{uuid.uuid4().hex}"  # others may be looking at the same time
            self.write(probe, b"")
            self.delete(probe)
        except Exception as error:
            raise InputError(f"{option}: {self.root} cannot be written: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        if self.is_local or not isinstance(error, PermissionError):
            return one_line(error)
        return f"{one_line(error)} (its credentials must be right, and allow to list, read, write and delete there)"

    def write(self, name: str, data: bytes) -> None:
        """Write a file; readers see the older one, if there is one, or the new one."""
        path = self.path(name)
        if self._local:
            return self._local.write(name, data)
        with as_os_errors():
            self.fs.pipe_file(path, data)

    def create_once(self, name: str, data: bytes) -> bool:
        """Write ``name`` whole, unless it exists. Returns whether this call made it."""
        path = self.path(name)
        if self._local:
            return self._local.create_once(name, data)
        with as_os_errors():
            return create_object_once(self.fs, path, data)

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The whole content of ``name``, of at most ``limit`` bytes. Raises `FileNotFoundError`, `InputError`."""
        path = self.path(name)
        if self._local:
            return self._local.read(name, limit)
        data = read_object(self.fs, path, limit + 1)
        if len(data) > limit:
            raise InputError(f"{self.root}/{name} has more than {limit} bytes")
        return data

    def read_json(self, name: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
        """The JSON object in ``name``. Raises as `read`, and `InputError` for other content."""
        return parse_json_object(self.read(name, limit), f"{self.root}/{name}")

    def read_all(self, names: Sequence[str], limit: int) -> list[bytes]:
        """As `read`, of several files; from an object store in one round trip."""
        if self._local:
            return [self.read(name, limit) for name in names]
        with as_os_errors():
            found = self.fs.cat_ranges([self.path(name) for name in names], 0, limit + 1, on_error="raise")
        for name, data in zip(names, found, strict=True):
            if len(data) > limit:
                raise InputError(f"{self.root}/{name} has more than {limit} bytes")
        return list(map(bytes, found))

    def delete(self, name: str) -> None:
        """Delete a file. Raises `FileNotFoundError`."""
        path = self.path(name)
        if self._local:
            return self._local.delete(name)
        with as_os_errors():
            self.fs.rm_file(path)

    def exists(self, name: str) -> bool:
        """Whether ``name`` exists, file or folder."""
        path = self.path(name)
        if self._local:
            return self._local.exists(name)
        with as_os_errors():
            return bool(self.fs.exists(path))

    def list(self, folder: str) -> list[str]:
        """Relative names of the files and folders directly in ``folder``, sorted; empty if it does not exist."""
        path = self.path(folder)
        try:
            names = self._local.list(folder) if self._local else list_objects(self.fs, path)
        except FileNotFoundError:
            return []
        prefix = f"{folder}/" if folder else ""
        return sorted(f"{prefix}{name}" for name in names if not name.startswith("."))

    def sizes(self, folder: str) -> dict[str, int]:
        """Relative names of the files directly in ``folder``, with their sizes; empty if it does not exist."""
        path = self.path(folder)
        try:
            found = self._local.sizes(folder) if self._local else list_objects(self.fs, path)
        except FileNotFoundError:
            return {}
        return {f"{folder}/{name}": size for name, size in found.items()}

    def write_table(self, name: str, rows: Iterable[dict[str, object]], schema: pa.Schema) -> dict[str, object]:
        """Write rows as one Parquet file (zstd). Returns its size and sha256 (`describe`)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
        self.write(name, sink.getvalue())
        return describe(sink.getvalue())

    def read_table(self, name: str) -> pa.Table:
        """Read one Parquet file.

        Without Arrow's threads, as always when Arrow reads Python's memory: they release that memory some time after
        the table is there, and abort a program that ends meanwhile.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: it is no Parquet file of plain columns.
        """
        from echodfkd.storage.parquet import PARQUET_ERRORS, open_parquet

        data = self.read(name)
        try:
            return open_parquet(data).read(use_threads=False)
        except PARQUET_ERRORS as error:
            what = f"{len(data)} bytes that are no Parquet file of plain columns"
            raise InputError(f"{self.root}/{name} is damaged: {what} ({one_line(error)})") from error

    def discard_partial(self) -> None:
        """Delete half-written files of killed writers. Only for a run that holds the folder (`echodfkd.storage.lease`).

        The root and the folder of leases stay as they are: runs that still ask for the folder write there.
        """
        asked = (self._base, self.path("lease"))  # os.walk enters no link
        for folder, _, names in os.walk(self._base) if self.is_local else ():
            for name in names if folder not in asked else ():
                if name.startswith(PARTIAL):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))
