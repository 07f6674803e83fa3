"""A run folder on a local disk or an object store, behind the four calls that the run needs.

Object stores have no rename, so nothing here renames: a file that readers may look for at any moment
(a manifest) is made by `create_once`, which either shows the whole content or nothing.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.errors import InputError


def read_bytes(path: str) -> bytes:
    """The whole content of one file, a path or an fsspec URL. Raises `OSError`."""
    with fsspec.open(path, "rb") as file:
        return file.read()


class RunStorage:
    """Files under one root (a path or an fsspec URL such as ``s3://bucket/prefix``), named by relative paths.

    Raises:
        InputError: the root cannot be created or written (said once, by `check_writable`).
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.fs, self._base = fsspec.core.url_to_fs(self.root)
        self.is_local = "file" in self.fs.protocol

    def path(self, name: str) -> str:
        """Absolute path or key of ``name``."""
        return f"{self._base}/{name}" if name else self._base

    def check_writable(self) -> None:
        """Raise `InputError` where nothing can be written under the root."""
        try:
            self.write(".writable", b"")
            self.fs.rm(self.path(".writable"))
        except Exception as error:
            raise InputError(f"the run folder {self.root} cannot be written: {error}") from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file that nobody reads before a manifest names it; an older one is replaced."""
        self._make_parent(name)
        self.fs.pipe_file(self.path(name), data)

    def replace(self, name: str, data: bytes) -> None:
        """Write a file that readers may open at any time (a report): they see the old or the new one."""
        if not self.is_local:
            self.write(name, data)  # a PUT shows the whole object or nothing
            return
        self._make_parent(name)
        os.replace(self._temporary(name, data), self.path(name))

    def create_once(self, name: str, data: bytes) -> bool:
        """Write ``name`` whole, unless it exists. Returns whether this call made it."""
        self._make_parent(name)
        if not self.is_local:
            try:
                self.fs.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return False
            return True
        temporary = self._temporary(name, data)
        try:
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def read(self, name: str) -> bytes:
        """The whole content of ``name``. Raises `FileNotFoundError`."""
        return self.fs.cat_file(self.path(name))

    def exists(self, name: str) -> bool:
        """Whether ``name`` exists, file or folder."""
        return bool(self.fs.exists(self.path(name)))

    def list(self, folder: str) -> list[str]:
        """Relative names of what lies directly in ``folder``, sorted; empty where it does not exist."""
        self.fs.invalidate_cache()
        try:
            names = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        found = (str(name).rstrip("/").rsplit("/", 1)[-1] for name in names)
        prefix = f"{folder}/" if folder else ""
        return sorted(f"{prefix}{name}" for name in found if name and not name.startswith("."))

    def write_table(self, name: str, rows: Iterable[dict[str, object]], schema: pa.Schema) -> None:
        """Write rows as one Parquet file (zstd)."""
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, compression="zstd")
        self.write(name, sink.getvalue())

    def read_table(self, name: str) -> pa.Table:
        """Read one Parquet file."""
        return pq.read_table(io.BytesIO(self.read(name)))

    def _make_parent(self, name: str) -> None:
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)

    def _temporary(self, name: str, data: bytes) -> str:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(self.path(name)), prefix=".partial-")
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        os.chmod(temporary, 0o644)
        return temporary
