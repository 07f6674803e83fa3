"""The videos that a user names: files, folders, prefixes of an object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.cine import Cine
from echodfkd.sources.video.cine_files import CineFile, cine_name, find_cines, read_cine_file


@dataclass(frozen=True)
class VideoFile:
    """A video, under a plain name that no other video of the call has. ``error``: why it cannot be used at all."""

    name: str
    file: CineFile
    error: str = ""

    def read(self) -> Cine:
        """Decode it. Raises `ClipError`."""
        if self.error:
            raise ClipError(self.error)
        return read_cine_file(self.file, name=self.name)


def find_videos(paths: Sequence[str], *, hash_names: bool) -> list[VideoFile]:
    """Every video of these paths, in their order. A file that is named twice, or whose bytes are, counts once.

    Raises:
        InputError: a path does not exist or cannot be listed, or there is no video.
    """
    found: dict[str, VideoFile] = {}
    seen: set[tuple[str, str]] = set()
    others = 0
    for path in paths:
        files, skipped = find_cines(path, option="PATH")
        others += skipped
        for file in files:
            if (file.folder, file.path) in seen:
                continue
            seen.add((file.folder, file.path))
            video = _named(file, found, hash_names=hash_names)
            found.setdefault(video.name, video)
    if not found:
        raise InputError(
            f"PATH: {', '.join(paths)} holds no video: expected AVI, MP4, MOV, DICOM or NIfTI files or folders of PNG"
            f" frames, found {others} other files"
        )
    return list(found.values())


def _named(file: CineFile, taken: dict[str, VideoFile], *, hash_names: bool) -> VideoFile:
    """The video under its own name, or with a number if another file has that name."""
    try:
        name = cine_name(file, hashed=hash_names)
    except ClipError as error:
        free = next(name for name in _numbered("unreadable") if name not in taken)
        return VideoFile(free, file, str(error))
    if hash_names or file.may_name_a_patient:  # the name is one of the bytes
        return VideoFile(name, file)
    return VideoFile(next(name for name in _numbered(name) if name not in taken), file)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
