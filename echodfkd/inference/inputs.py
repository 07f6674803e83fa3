"""The videos that a user names: files, folders, prefixes of an object store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.cine import Cine
from echodfkd.sources.video.cine_files import CineFile, cine_name, content_name, decode_cine, find_cines
from echodfkd.sources.video.container import MAX_VIDEO_BYTES


@dataclass(frozen=True)
class VideoFile:
    """A video, under a plain name that no other video of the call has.

    ``name`` is "" if only the content can give it, which is read once, by `open`. ``place`` counts the call's videos.
    """

    file: CineFile
    place: int
    name: str = ""

    def open(self) -> OpenVideo:
        """Read the file. Raises `ClipError`."""
        if self.name and self.file.frames:
            return OpenVideo(self.name, self.file)  # one frame at a time
        parts = []
        for part in self.file.parts():
            parts.append(part)
            if sum(map(len, parts)) > MAX_VIDEO_BYTES:
                raise ClipError(f"the video is too large: its files have more than {MAX_VIDEO_BYTES} bytes")
        return OpenVideo(self.name or content_name(self.file, parts), self.file, tuple(parts))

    @property
    def name_unread(self) -> str:
        """The name of a video that `open` could not read."""
        return self.name or f"unreadable.{self.place}"  # a dot: no name of a path has one


@dataclass(frozen=True)
class OpenVideo:
    """A video with its bytes, not yet decoded; ``parts`` is empty if they are read on the way."""

    name: str
    file: CineFile
    parts: tuple[bytes, ...] = ()

    def decode(self, *, references: bool = False) -> Cine:
        """The frames; ``references`` keeps a DICOM image's UIDs. Raises `ClipError`."""
        return decode_cine(self.file, self.parts or self.file.parts(), name=self.name, references=references)


def find_videos(paths: Sequence[str], *, hash_names: bool) -> list[VideoFile]:
    """Every video of these paths, in their order. A file that is named twice counts once.

    Names by content are left to `VideoFile.open`: two files of the same bytes have one name.

    Raises:
        InputError: a path does not exist or cannot be listed, or there is no video.
    """
    found: list[VideoFile] = []
    seen: set[tuple[str, str]] = set()
    taken: set[str] = set()
    others = 0
    for path in paths:
        files, skipped = find_cines(path, option="PATH")
        others += skipped
        for file in files:
            if (file.folder, file.path) in seen:
                continue
            seen.add((file.folder, file.path))
            name = "" if hash_names or file.may_name_a_patient else _free(cine_name(file), taken)
            taken.add(name)
            found.append(VideoFile(file, len(found) + 1, name))
    if not found:
        raise InputError(
            f"PATH: {', '.join(paths)} holds no video: expected AVI, MP4, MOV, DICOM or NIfTI files or folders of PNG"
            f" frames, found {others} other files"
        )
    return found


def _free(name: str, taken: set[str]) -> str:
    """The name, or with a number if another file has it."""
    return next(one for one in _numbered(name) if one not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
