"""One hash over a file, or over all files of a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from echodfkd.core.errors import InputError

MAX_FILES = 1000
MAX_BYTES = 1 << 36
"""Most files of a folder that is hashed as a whole, and most bytes of all of them."""


def hash_files(path: str) -> str:
    """sha256 of a file; of a folder, that over the name and the sha256 of each file in it, by name.

    Files and folders whose name begins with a point are left out: tools keep their own notes in them.

    Raises:
        InputError: there is nothing of that name, a file cannot be read, or there are too many.
    """
    root = Path(path)
    try:
        if not root.is_dir():
            return _hash(root)
        names, size = [], 0
        for name in _names(root):
            names.append(name)
            size += (root / name).stat().st_size
            if len(names) > MAX_FILES or size > MAX_BYTES:
                raise InputError(
                    f"{path} holds more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB; name the folder of only these"
                )
        lines = [f"{name} {_hash(root / name)}\n" for name in sorted(names)]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _names(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(folder) / name for name in sorted(files) if not name.startswith(".")):
            if file.is_file():
                yield str(file.relative_to(root))


def _hash(file: Path) -> str:
    if file.exists() and not file.is_file():
        raise InputError(f"{file} is not a plain file")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
