"""The training clips of a generator: made once from any source, and kept in the run's folder as raw frames.

Legend: N clips, L frames of a clip, S side in pixels, K conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.core.counter import Counter
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.redaction import dump_json
from echodfkd.models.generators.latent_networks import CONDITIONS, wishes_of
from echodfkd.sources.clip_source import ClipSource
from echodfkd.storage.files import MAX_FILE_BYTES, RunStorage
from echodfkd.storage.untrusted import parse_json_object

_EVERY = 64
"""Clips between two notes of how far it has come."""


@dataclass(frozen=True)
class GatheredClips:
    """``video`` uint8 (N, L, S, S) lies on the disk. ``wishes`` float32 (N, K): NaN for an unknown condition.
    ``fps`` float32 (N,).
    """

    video: np.ndarray
    wishes: np.ndarray
    fps: np.ndarray


def gather_clips(
    source: ClipSource, num_clips: int, shape: tuple[int, int], folder: Path, *, report: Callable[[str], None]
) -> GatheredClips:
    """The first clips of the source that can be used; a second call goes on from the first.

    Args:
        source: any.
        num_clips: N.
        shape: (L, S) of its clips.
        folder: an existing folder of this run.
        report: takes lines of progress.

    Raises:
        InputError: more of the source's clips fail than succeed, or the folder holds another run's clips.
    """
    length, side = shape
    storage = RunStorage(str(folder))
    path, rows_path = folder / "clips.raw", folder / "clips.json"
    about = {"source": source.name, "clips": num_clips, "frames": length, "size": side, "conditions": list(CONDITIONS)}
    found: dict[str, Any] = (
        parse_json_object(rows_path.read_bytes(), f"--resume: {rows_path}")
        if rows_path.exists()
        else {**about, "index": 0, "rows": []}
    )
    if any(found.get(key) != value for key, value in about.items()):
        raise InputError(f"--resume: {rows_path} lists clips of another run ({about}); use another folder")
    video = raw_array(path, (num_clips, length, side, side), torch.uint8)
    rows, failed = found["rows"], 0
    with Counter("clips", num_clips, report, done=len(rows)) as counter:
        while len(rows) < num_clips:
            try:
                clip = source.clip(found["index"])
                video[len(rows)] = clip.video
                rows.append([clip.fps, *wishes_of(clip.conditions)])
            except ClipError as error:
                failed += 1
                if failed > len(rows) + 8:
                    raise InputError(
                        f"source: {failed} of {found['index'] + 1} clips fail; the last one: {error}"
                    ) from error
            found["index"] += 1
            if len(rows) % _EVERY == 0 or len(rows) == num_clips:
                storage.write(rows_path.name, dump_json(found))
            counter.show(len(rows))
    return read_gathered(folder)


def read_gathered(folder: Path) -> GatheredClips:
    """The clips that `gather_clips` has gathered there."""
    rows_path = folder / "clips.json"
    found = parse_json_object(RunStorage(str(folder)).read(rows_path.name, MAX_FILE_BYTES), f"--resume: {rows_path}")
    table = np.asarray(found["rows"], dtype=np.float32)
    shape = (found["clips"], found["frames"], found["size"], found["size"])
    return GatheredClips(raw_array(folder / "clips.raw", shape, torch.uint8), table[:, 1:], table[:, 0])


def raw_array(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> np.ndarray:
    """An array that lies in a file of plain numbers, and is written there; the file is made if there is none."""
    return torch.from_file(str(path), shared=True, size=math.prod(shape), dtype=dtype).view(shape).numpy()
