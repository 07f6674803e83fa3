"""Cines in a folder without any list as a source of clips and of evaluation cases without truth.

Legend: T frames, H rows, W columns.

``folder`` takes all files that `echodfkd.sources.video.cine_files` finds, ``dicom`` only DICOM files. Frames are padded
with black to squares, as a student's user pads them, and then resized.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.metrics.spacing import pixel_sides
from echodfkd.sources.case_grid import case_grid
from echodfkd.sources.clip_source import WindowSettings
from echodfkd.sources.notes import Notes
from echodfkd.sources.recording_source import MAX_FPS, RecordingSource, named
from echodfkd.sources.video.cine import Cine
from echodfkd.sources.video.cine_files import CineFile, cine_name, find_cines, read_cine_file
from echodfkd.sources.video.windows import pad_to_square, resize_video, sample_video

_SHARES = {"TRAIN": 7465, "VAL": 1288, "TEST": 1277}
"""EchoNet-Dynamic's numbers of videos in its splits."""
_MAX_NAME = 100


@dataclass(frozen=True)
class FoundCine:
    """One cine. ``shown`` stands for it in ids and errors: its path, or its number if its name could name a patient."""

    file: CineFile
    shown: str
    split: str


class FolderSource(RecordingSource[FoundCine]):
    """A `ClipSource` over a file, or a folder and its folders.

    Cines are ordered by path. Each call reads one file, once. A DICOM file's name and path are in no id and no error:
    its clips are named after a hash of its content.

    Args:
        path: the file or folder, a path or an fsspec URL.
        split: TRAIN, VAL or TEST of `split_of`, several with commas, or ALL.
        window: shape of clips and cases.
        seed: decides the order of cines and where windows start.
        kind: folder or dicom.
        video_fps: frames a second of cines whose file tells none; 0 refuses them.

    Raises:
        InputError: there is no such place, it holds no cine of the split, or a package to read them is missing.
    """

    def __init__(
        self, path: str, split: str, window: WindowSettings, *, seed: int, kind: str = "folder", video_fps: float = 0.0
    ) -> None:
        self.name = self.domain = kind
        self._video_fps = video_fps
        files, others = find_cines(path, option="source.path")
        if kind == "dicom":
            others += sum(not file.may_name_a_patient for file in files)
            files = [file for file in files if file.may_name_a_patient]
        cines = [file for file in files if file.may_be_cine()]
        if not cines:
            expected = "a DICOM file" if kind == "dicom" else "AVI, MP4, MOV, DICOM or NIfTI, or a folder of PNG frames"
            others += len(files)
            raise InputError(f"source.path: {path} holds no cine ({expected}), but {others} other files")
        _check_packages(cines)
        notes = Notes()
        if stills := len(files) - len(cines):
            notes.say(f"files of one frame or without an image that are left out: {stills}")
        if others:
            notes.say(f"files that are no cines and are left out: {others}")
        super().__init__(path, _of_split(_named(cines), split, path), window, seed=seed)
        self.notes = notes.sentences

    def clip(self, index: int) -> VideoClip:
        """The window of this index. See `ClipSource.clip`.

        Raises:
            ClipError: the cine cannot be used or is shorter than the window. The error's ``clip_id`` attribute names
                the clip.
        """
        found, epoch = self._recording(index, is_case=False)
        with named(f"{self.name}-{found.shown}-s{self._seed}-e{epoch}"):
            cine = self._read(found)
            target = self._settings.fps
            positions, start = self._window(
                found.file.path, found.shown, epoch, len(cine.video), self._fps(cine, found), target
            )
        return self._cut(found, cine, f"e{epoch}", index, epoch, positions, start)

    def case(self, index: int) -> VideoClip:
        """Cine ``index`` by path, at most ``case_frames`` samples from its first frame on. It has no truth.

        Raises:
            ClipError: the cine cannot be used. The error's ``clip_id`` attribute names the case.
            InputError: there is no such case.
        """
        found, epoch = self._recording(index, is_case=True)
        with named(f"{self.name}-{found.shown}-s{self._seed}-case"):
            cine = self._read(found)
            grid = case_grid({}, len(cine.video), self._fps(cine, found), self._settings.fps, found.shown)
            stretch = grid.stretch(self._settings.case_frames)
        return self._cut(found, cine, "case", index, epoch, stretch.positions, stretch.start)

    def _read(self, found: FoundCine) -> Cine:
        cine = read_cine_file(found.file, name=found.shown)
        if len(cine.video) < 2:
            raise ClipError(f"{found.shown} has {len(cine.video)} frame, expected a cine of several")
        return cine

    def _fps(self, cine: Cine, found: FoundCine) -> float:
        fps = cine.fps or self._video_fps
        if not fps:
            raise ClipError(f"{found.shown} has no frame rate; source.video_fps gives one to such files")
        if not 1 <= fps <= MAX_FPS:
            raise ClipError(f"{found.shown} has {fps:g} frames a second, expected 1 .. {MAX_FPS:g}")
        return fps

    def _cut(
        self, found: FoundCine, cine: Cine, turn: str, index: int, epoch: int, positions: np.ndarray, start: int
    ) -> VideoClip:
        frames, side = pad_to_square(sample_video(cine.video, positions), pixel_sides(cine.sides))
        shown = f"{cine.pseudonym}-{found.shown}" if cine.pseudonym else found.shown
        return self._make(
            f"{self.name}-{shown}-s{self._seed}-{turn}",
            index,
            epoch,
            start,
            video=resize_video(frames, self._settings.size),
            fps=self._settings.fps or self._fps(cine, found),
            spacing_mm=side / self._settings.size if cine.spacing_mm else None,
            warnings=cine.warnings,
        )


def split_of(path: str) -> str:
    """TRAIN, VAL or TEST, by a hash: the same for ever, with the shares of EchoNet-Dynamic.

    Files of one folder directly below the source's stay together, because such a folder is often a patient.
    """
    digest = hashlib.sha256(path.split("/")[0].encode(errors="surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") * sum(_SHARES.values()) >> 64
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares cover all places")


def _named(files: list[CineFile]) -> list[FoundCine]:
    """Each file under a name that no other file has, in any split."""
    taken: set[str] = set()
    found = []
    for number, file in enumerate(files, 1):
        shown = f"file{number}"
        if not file.may_name_a_patient:
            plain = cine_name(file)[-_MAX_NAME:]
            shown = plain if plain not in taken else f"{plain}-{number}"
        taken.add(shown)
        found.append(FoundCine(file, shown, split_of(file.path)))
    return found


def _of_split(found: list[FoundCine], split: str, path: str) -> list[FoundCine]:
    wanted = [word.strip().upper() for word in split.split(",")]
    chosen = [cine for cine in found if wanted == ["ALL"] or cine.split in wanted]
    if unknown := [word for word in wanted if word not in (*_SHARES, "ALL")]:
        raise InputError(f"source.split: got {unknown[0]!r}, a folder without a list has {', '.join(_SHARES)}, or ALL")
    if not chosen:
        counts = {name: sum(cine.split == name for cine in found) for name in _SHARES}
        there = ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
        raise InputError(
            f"{path} holds no cine of split {split} (source.split): a hash of the file's name, or of the folder's that"
            f" it lies in, chooses the split, and there are {there}; ALL takes every cine"
        )
    return chosen


def _check_packages(files: list[CineFile]) -> None:
    """Raise `InputError` if a package is missing to read these files."""
    for package, what, needed in (
        ("pydicom", "DICOM", any(file.may_name_a_patient for file in files)),
        ("nibabel", "NIfTI", any(file.is_volume for file in files)),
    ):
        if needed and not importlib.util.find_spec(package):
            raise InputError(f"source.path: reading {what} needs {package}: pip install 'echodfkd[medical]'")
