"""Files of a folder on a local disk that others may have filled: plain files in plain folders, and nothing else.

No part of a name below the root is followed if it is a symbolic link, in reading and in writing: each folder on the
way is opened by itself, relative to the one before, so that nothing can take its place in between (openat(2)). A file
is opened without waiting for a writer, looked at, and only then read: a pipe, a device or a socket is refused. The
root itself may be a link, because the user named it.

A file that is written appears whole or not at all, as `echodfkd.storage.files` says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator

from echodfkd.core.errors import InputError

PARTIAL = ".partial-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read_regular(path: str, limit: int) -> bytes:
    """The bytes of a plain file that the user named, which may be a link. Raises `OSError` for anything else."""
    return _read_opened(os.open(path, _FILE & ~os.O_NOFOLLOW), limit)


def _read_opened(handle: int, limit: int) -> bytes:
    try:
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        if about.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {about.st_size} bytes, at most {limit} are read")
        with open(handle, "rb", closefd=False) as file:
            return file.read(about.st_size)
    finally:
        os.close(handle)


class LocalFolder:
    """The files below ``root``, by relative names that `files.RunStorage` has checked.

    Raises:
        InputError: by every method, if a part of the name is a link, or a folder and a file are in each other's place.
        OSError: likewise, if the disk fails.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, name: str, limit: int) -> bytes:
        """Raises `FileNotFoundError`, and `InputError` for anything but a plain file of at most ``limit`` bytes."""
        with self._folder_of(name) as (folder, last):
            return _read_opened(os.open(last, _FILE, dir_fd=folder), limit)

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole over an older one."""
        with self._folder_of(name, make=True) as (folder, last), _new_file(folder, data) as temporary:
            os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)

    def create_once(self, name: str, data: bytes) -> bool:
        """Write a file whole unless it exists; whether this call made it."""
        with self._folder_of(name, make=True) as (folder, last), _new_file(folder, data) as temporary:
            try:
                os.link(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
            except FileExistsError:
                return False
            return True

    def delete(self, name: str) -> None:
        """Delete a file. Raises `FileNotFoundError`."""
        with self._folder_of(name) as (folder, last):
            os.unlink(last, dir_fd=folder)

    def exists(self, name: str) -> bool:
        """Whether there is anything of this name."""
        try:
            with self._folder_of(name) as (folder, last):
                os.stat(last or ".", dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def sizes(self, name: str) -> dict[str, int]:
        """Names directly in a folder, with their sizes. Raises `FileNotFoundError` if there is no such folder."""
        found = {}
        with self._opened(name, name) as folder:
            for one in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    found[one] = os.stat(one, dir_fd=folder, follow_symlinks=False).st_size
        return found

    def list(self, name: str) -> list[str]:
        """Names directly in a folder. Raises `FileNotFoundError`."""
        with self._opened(name, name) as folder:
            return os.listdir(folder)

    @contextlib.contextmanager
    def _folder_of(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open folder that a file lies in, and the file's name in it."""
        parent, _, last = name.rpartition("/")
        with self._opened(parent, name, make=make) as folder:
            yield folder, last

    @contextlib.contextmanager
    def _opened(self, folder: str, name: str, *, make: bool = False) -> Iterator[int]:
        """An open folder; errors of the block are explained by what stands at ``name``, in it or the folder itself."""
        try:
            handle = self._open(folder, make)
            try:
                yield handle
            finally:
                os.close(handle)
        except OSError as error:
            if fault := self._fault(folder, name):
                raise InputError(fault) from error
            if error.errno == errno.EFBIG:
                raise InputError(f"{self.root}/{name}: {error.strerror}") from error
            raise

    def _open(self, folder: str, make: bool) -> int:
        if make:
            _make_root(self.root)
        handle = os.open(self.root, _FOLDER & ~os.O_NOFOLLOW)
        try:
            for part in filter(None, folder.split("/")):
                if make:
                    _make_folder(part, handle)
                inner = os.open(part, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
        except OSError:
            os.close(handle)
            raise
        return handle

    def _fault(self, folder: str, name: str) -> str:
        """A sentence on the first part of a name that is not of its kind; "" if all are."""
        path, depth = self.root, len(list(filter(None, folder.split("/"))))
        for place, part in enumerate(filter(None, name.split("/"))):
            path = f"{path}/{part}"
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                return ""
            if stat.S_ISLNK(mode):
                return f"{path} is a symbolic link: none is followed out of the folder that was named, or inside of it"
            if place < depth and not stat.S_ISDIR(mode):
                return f"{path} is not a folder, but a file stands in its place"
            if place >= depth and stat.S_ISDIR(mode):
                return f"{path} is a folder, expected a file"
            if place >= depth and not stat.S_ISREG(mode):
                return f"{path} is a pipe, a device or a socket, expected a plain file"
        return ""


@contextlib.contextmanager
def _new_file(folder: int, data: bytes) -> Iterator[str]:
    """The name of a file of these bytes, flushed to the disk, that the block gives its own name."""
    name = f"{PARTIAL}{uuid.uuid4().hex}"
    handle = os.open(name, _NEW, 0o644, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(handle)
            os.fchmod(handle, 0o644)
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    _flush(folder)


def _make_root(root: str) -> None:
    """`os.makedirs`, with every new entry flushed to the disk."""
    if not os.path.isdir(root):
        parent = os.path.dirname(root)
        _make_root(parent)
        os.makedirs(root, exist_ok=True)
        handle = os.open(parent, os.O_RDONLY)
        _flush(handle)
        os.close(handle)


def _make_folder(name: str, parent: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
        _flush(parent)


def _flush(folder: int) -> None:
    """Flush a folder's entries to the disk, if its file system can."""
    with contextlib.suppress(OSError):
        os.fsync(folder)
