"""Find the cines in files and folders that have no list beside them, and read one.

A cine is an AVI, MP4, MOV, DICOM or NIfTI file, or a folder of PNG frames. DICOM files often have no suffix, and their
names can hold patients' names: their cines are named after a hash of the content.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError, InputError, one_line
from echodfkd.metrics.spacing import spacing_of
from echodfkd.sources.video.cine import Cine, is_dicom, read_cine
from echodfkd.sources.video.container import MAX_FRAME_PIXELS, MAX_VIDEO_BYTES
from echodfkd.sources.video.dicom_elements import promises_frames
from echodfkd.sources.video.volumes import Volume, read_nifti
from echodfkd.storage.files import read_inside
from echodfkd.storage.object_store import as_os_errors, open_filesystem

VIDEO_SUFFIXES = (".avi", ".mp4", ".mov", ".m4v")
DICOM_SUFFIXES = (".dcm", ".dicom")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
FRAME_SUFFIX = ".png"
MAX_FILES = 1_000_000
"""Entries of a folder that are looked at."""
_MAX_DEPTH = 12
_LISTS = ("DICOMDIR",)
_HASHED = 16
_HEAD_BYTES = 1 << 17
"""Bytes of a DICOM file in which its number of frames is looked for."""
_MAY_BE_DICOM = re.compile(r"|\.[0-9]+|\.ima|\.img")
"""Suffixes of files that are looked into: archives name DICOM files by numbers with dots, or without a suffix."""
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class CineFile:
    """One cine: ``path`` in ``folder``, both of ``fs``; it is a folder if ``frames`` names its PNG files in order."""

    fs: Any
    folder: str
    path: str
    frames: tuple[str, ...] = ()

    @property
    def may_name_a_patient(self) -> bool:
        """Whether this is a DICOM file, of which hospitals choose the name."""
        return not self.frames and _suffix(self.path) not in (*VIDEO_SUFFIXES, *NIFTI_SUFFIXES)

    @property
    def is_volume(self) -> bool:
        """Whether this is a NIfTI file."""
        return not self.frames and _suffix(self.path) in NIFTI_SUFFIXES

    def may_be_cine(self) -> bool:
        """False if its first bytes say that it has one frame or no image, as many files of a hospital's export."""
        if not self.may_name_a_patient:
            return len(self.frames) != 1
        try:
            with as_os_errors():
                head = bytes(self.fs.cat_file(f"{self.folder}/{self.path}", start=0, end=_HEAD_BYTES))
        except OSError:
            return True  # reading it will say why
        return promises_frames(head, whole=len(head) < _HEAD_BYTES)

    def parts(self) -> Iterator[bytes]:
        """The bytes of the file, or of each PNG frame in order. Raises `ClipError`."""
        return (self.read(path) for path in self.frames or (self.path,))

    def read(self, path: str = "") -> bytes:
        """The file's bytes. Raises `ClipError`."""
        shown = "a DICOM file" if self.may_name_a_patient else path or self.path
        try:
            with as_os_errors():
                return read_inside(self.fs, self.folder, path or self.path, MAX_VIDEO_BYTES)
        except OSError as error:
            reason = type(error).__name__ if self.may_name_a_patient else one_line(error)
            raise ClipError(f"{shown} cannot be read: {reason}") from None


def find_cines(url: str, *, option: str) -> tuple[list[CineFile], int]:
    """The cines of a file or a folder and its folders, by path; and the number of files that are none.

    Hidden files, those of macOS (``._x``, ``__MACOSX``) and DICOMDIR are not counted.

    Args:
        url: a path or an fsspec URL.
        option: the option that named it, for errors.

    Raises:
        InputError: there is no such place, it cannot be listed, or it holds more than `MAX_FILES` files.
    """
    try:
        with as_os_errors():
            fs, base = open_filesystem(url.rstrip("/") or "/")
            if fs.isfile(base):  # the user's own link is followed
                folder, _, name = (os.path.realpath(base) if "file" in fs.protocol else base).rpartition("/")
                return [CineFile(fs, folder, name, (name,) if _suffix(name) == FRAME_SUFFIX else ())], 0
            if not fs.isdir(base):
                raise InputError(f"{option}: there is no file or folder {url}")
            files = _bounded(fs, base, option, url)
    except OSError as error:
        raise InputError(f"{option}: {url} cannot be listed: {one_line(error)}") from error
    frames: dict[str, list[str]] = {}
    found, others = [], 0
    for path in (path for path in files if not _is_hidden(path)):
        suffix = _suffix(path)
        if _MAY_BE_DICOM.fullmatch(suffix) and not _begins_as_dicom(fs, f"{base}/{path}"):
            others += 1
        elif suffix == FRAME_SUFFIX:
            frames.setdefault(str(PurePosixPath(path).parent), []).append(path)
        elif suffix in (*VIDEO_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES) or _MAY_BE_DICOM.fullmatch(suffix):
            found.append(CineFile(fs, base, path))
        else:
            others += 1
    found += [CineFile(fs, base, parent, tuple(sorted(paths, key=_by_number))) for parent, paths in frames.items()]
    return sorted(found, key=lambda file: file.path), others


def read_cine_file(file: CineFile, *, name: str) -> Cine:
    """Read one cine; the ``pseudonym`` of a DICOM file is its `cine_name`.

    ``name`` stands for it in errors. Raises `ClipError` or `InputError` as `read_cine`.
    """
    return decode_cine(file, file.parts(), name=name)


def decode_cine(file: CineFile, parts: Iterable[bytes], *, name: str, references: bool = False) -> Cine:
    """`read_cine_file` of bytes that `CineFile.parts` gave; ``references`` keeps a DICOM image's UIDs."""
    if file.frames:
        return Cine(_stack(parts, name), 0.0)
    (data,) = parts
    if file.is_volume:
        return _of_volume(read_nifti(data, name))
    if file.may_name_a_patient and not is_dicom(data):
        raise ClipError(f"{name} has no suffix of a video or a volume, and is no DICOM file")
    cine = read_cine(data, name, references=references)
    return replace(cine, pseudonym=_hashed("dicom", [data])) if file.may_name_a_patient else cine


def _of_volume(volume: Volume) -> Cine:
    """NIfTI headers of cines hold no rate that could be relied on: 0.0."""
    down, across = volume.spacing_mm
    spacing = spacing_of(down, across)
    warning = f"its pixels are {down:.3g} mm high and {across:.3g} mm wide, which cannot be: lengths are not given"
    return Cine(volume.values, 0.0, spacing, warnings=(warning,) if spacing is None else ())


def cine_name(file: CineFile, *, hashed: bool = False) -> str:
    """A plain name: the path's, or a hash of the content if the file's own name could name a patient.

    Raises:
        ClipError: the file cannot be read.
    """
    if file.may_name_a_patient or hashed:
        return content_name(file, file.parts())
    stem = file.path[: len(file.path) - len(_suffix(file.path))] if not file.frames else file.path
    return _NOT_PLAIN.sub("_", stem).strip("_") or "video"


def content_name(file: CineFile, parts: Iterable[bytes]) -> str:
    """The name by a hash of the content, which `CineFile.parts` gave."""
    return _hashed("dicom" if file.may_name_a_patient else "video", parts)


def _hashed(kind: str, parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"{kind}-{digest.hexdigest()[:_HASHED]}"


def _bounded(fs: Any, base: str, option: str, url: str) -> list[str]:
    """Paths in the folder and its folders, in order; pipes and devices are left out."""
    paths: list[str] = []
    for _, _, files in fs.walk(base, detail=True, maxdepth=_MAX_DEPTH):
        plain = (str(info["name"]) for info in files.values() if info["type"] == "file" or info.get("islink"))
        paths += [path.removeprefix(base).lstrip("/") for path in plain]
        if len(paths) > MAX_FILES:
            raise InputError(f"{option}: {url} holds more than {MAX_FILES} files; name a folder in it")
    return sorted(paths)


def _begins_as_dicom(fs: Any, path: str) -> bool:
    try:
        with as_os_errors():
            return fs.isfile(path) and is_dicom(bytes(fs.cat_file(path, start=0, end=132)))
    except OSError:
        return False


def _is_hidden(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1].upper() in _LISTS


def _suffix(path: str) -> str:
    name = PurePosixPath(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else PurePosixPath(name).suffix


def _by_number(path: str) -> tuple[object, ...]:
    """Frame 2 comes before frame 10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path))


def _stack(images: Iterable[bytes], name: str) -> np.ndarray:
    """PNG frames as uint8 (T, H, W), grey."""
    from PIL import Image, UnidentifiedImageError

    frames: list[np.ndarray] = []
    for number, data in enumerate(images):
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.width * image.height > MAX_FRAME_PIXELS:
                    raise ClipError(f"{name} is too large: frame {number} has {image.width} x {image.height} pixels")
                if image.mode not in ("L", "RGB", "RGBA", "P", "LA", "1"):
                    raise ClipError(f"{name}: frame {number} has the mode {image.mode}; expected 8-bit grey or colour")
                grey = np.asarray(image.convert("L"))
        except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
            raise ClipError(f"{name}: frame {number} is no readable PNG file: {one_line(error)}") from error
        if frames and grey.shape != frames[0].shape:
            raise ClipError(f"{name} changes its frame size from {frames[0].shape} to {grey.shape}; expected one")
        frames.append(grey)
        if len(frames) * grey.size > MAX_VIDEO_BYTES:
            raise ClipError(f"{name} is too large: more than {MAX_VIDEO_BYTES} pixels")
    return np.stack(frames)
