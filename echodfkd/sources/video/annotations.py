"""Read several readers' tracings of a frame, as EchoDFKD's authors publish them for EchoNet-Dynamic.

One file per reader, ``NAME.diastol.label0.npy`` or ``NAME.systol.label1.npy``: an array (n, 4) like a frame's rows of
VolumeTracings.csv (`echodfkd.sources.video.tracing`), with 21 rows in most files and fewer in some. The file does not
name its frame, which is that of the phase in VolumeTracings.csv.

Legend: A annotators, H rows, W columns.
"""

from __future__ import annotations

import re

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.sources.video.arrays import parse_npy
from echodfkd.sources.video.tracing import traced_mask
from echodfkd.storage.files import read_inside
from echodfkd.storage.object_store import open_filesystem

_PHASES = {"diastol": "ed", "systol": "es"}
_FILE = re.compile(r"(?P<name>[A-Za-z0-9_+= -]{1,200})\.(?P<phase>diastol|systol)\.label(?P<number>[0-9]{1,3})\.npy")
_MAX_BYTES = 1 << 16


class AnnotationFolder:
    """The files of a folder, listed once.

    Args:
        root: a path or an fsspec URL.

    Raises:
        InputError: there is no such folder, or no file of this kind in it.
    """

    def __init__(self, root: str) -> None:
        try:
            self._fs, self._base = open_filesystem(root.rstrip("/"))
            listed = self._fs.ls(self._base, detail=False)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"the folder {root} of tracings cannot be read: {error}") from error
        names = sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in listed)
        self._files: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for file in names:
            if found := _FILE.fullmatch(file):
                key = found["name"], _PHASES[found["phase"]]
                self._files.setdefault(key, []).append((int(found["number"]), file))
        if not self._files:
            raise InputError(f"the folder {root} holds no tracings; expected files like 0X1A.diastol.label0.npy")

    @property
    def videos(self) -> set[str]:
        """Names of the videos that have tracings."""
        return {name for name, _ in self._files}

    def masks(self, name: str, phase: str, height: int, width: int) -> np.ndarray:
        """Masks of all readers of a video's frame, bool (A, H, W) by the number in their file's name; A may be 0.

        Args:
            name: the video, without ``.avi``.
            phase: ed or es.
            height: H of the frame that was traced.
            width: W.

        Raises:
            ClipError: a file is not a tracing.
        """
        masks = []
        for _, file in sorted(self._files.get((name, phase), [])):
            rows = self._read(file)
            try:
                masks.append(traced_mask(rows, height, width))
            except ClipError as error:
                raise ClipError(f"{file}: {error}") from error
        return np.stack(masks) if masks else np.zeros((0, height, width), bool)

    def _read(self, file: str) -> np.ndarray:
        try:
            rows = parse_npy(read_inside(self._fs, self._base, file, _MAX_BYTES))
        except (OSError, ValueError) as error:
            raise ClipError(f"{file} is not a tracing: {error}") from error
        if rows.ndim != 2 or rows.shape[1] != 4:
            raise ClipError(f"{file} is not a tracing: it holds an array {rows.shape}, expected (n, 4)")
        return rows.astype(np.float64)
