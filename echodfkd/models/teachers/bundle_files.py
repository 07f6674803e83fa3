"""Named files of a folder or a zip file, each bounded before it is read; nothing is unpacked to disk."""

from __future__ import annotations

import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Protocol

from echodfkd.core.errors import InputError
from echodfkd.models.teachers.teacher_files import read_pinned

MAX_CONFIG_BYTES = 1 << 20
MAX_ENTRIES = 10_000
MAX_RATIO = 50
"""Times that an entry may be larger than its packed bytes: float weights hardly shrink, JSON by some ten."""

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)


class BundleFiles(Protocol):
    """The files of a bundle, in a folder or zip."""

    path: str

    def read(self, name: str, most: int) -> bytes | None:
        """The content of a file, None if it does not exist. Raises `InputError` above ``most`` bytes, or if damaged."""
        ...

    def read_first(self, names: Sequence[str], most: int) -> tuple[str, bytes]:
        """Name and content of the first that is there. Raises `InputError` if none is."""
        ...


class _Files:
    def __init__(self, path: str) -> None:
        self.path = path

    def read(self, name: str, most: int) -> bytes | None:
        raise NotImplementedError

    def read_first(self, names: Sequence[str], most: int) -> tuple[str, bytes]:
        for name in names:
            if (data := self.read(name, most)) is not None:
                return name, data
        raise InputError(f"teacher.weights: {self.path} is no MONAI bundle: it lacks {' or '.join(names)}")

    def _check(self, name: str, size: int, most: int) -> None:
        if size > most:
            raise InputError(f"teacher.weights: {self.path}: {name} has {size} bytes, at most {most} are read")


class _Folder(_Files):
    def read(self, name: str, most: int) -> bytes | None:
        place = os.path.join(self.path, name)
        if not os.path.isfile(place):
            return None
        try:
            with open(place, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._check(name, size, most)
                return file.read(size)
        except OSError as error:
            raise InputError(f"teacher.weights: {place} cannot be read: {error.strerror or error}") from error


class _Zip(_Files):
    """Entries are found by their whole name, behind the bundle's own folder if it has one."""

    def __init__(self, path: str, data: bytes) -> None:
        super().__init__(path)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _DAMAGED as error:
            raise InputError(f"teacher.weights: {path} is no folder and no zip file ({error})") from error
        names = [entry.filename for entry in self._zip.infolist()]
        if len(names) > MAX_ENTRIES or len(set(names)) < len(names):
            raise InputError(
                f"teacher.weights: {path} has {len(names)} entries, expected at most {MAX_ENTRIES}, each name once"
            )
        roots = sorted({name.partition("configs/")[0] for name in names if name.endswith("configs/metadata.json")})
        roots = roots or sorted({name.partition("configs/")[0] for name in names if "configs/" in name})
        if len(roots) > 1 or (roots and roots[0].count("/") > 1):
            raise InputError(
                f"teacher.weights: {path} must hold one bundle, at its top or in one folder; found configs in"
                f" {', '.join(roots[:3])}"
            )
        self._root = roots[0] if roots else ""
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}

    def read(self, name: str, most: int) -> bytes | None:
        entry = self._entries.get(self._root + name)
        if entry is None:
            return None
        self._check(name, entry.file_size, min(most, MAX_RATIO * entry.compress_size + MAX_CONFIG_BYTES))
        try:
            with self._zip.open(entry) as file:
                return file.read(entry.file_size)
        except _DAMAGED as error:
            raise InputError(f"teacher.weights: {self.path}: {name} cannot be read ({error})") from error


def open_bundle(path: str, sha256: str) -> BundleFiles:
    """The files of a folder or zip.

    Args:
        path: of it.
        sha256: that the zip must have; "" takes any.

    Raises:
        InputError: neither of the two, damaged, or of another sha256; or a sha256 for a folder, which has none.
    """
    if os.path.isdir(path):
        if sha256:
            raise InputError(f"teacher.sha256: {path} is a folder, which has no sha256; give the bundle as a zip file")
        return _Folder(path)
    return _Zip(path, read_pinned(path, sha256))
