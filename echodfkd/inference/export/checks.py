"""Hold an exported file against the trained student, on clips of the phantom.

Legend: B clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from echodfkd.core.errors import RunError
from echodfkd.inference.export.sessions import open_session, run_stream
from echodfkd.inference.student import LoadedStudent
from echodfkd.models.teachers.teacher_files import ExportedNetwork
from echodfkd.sources.phantom.source import default_phantom

Run = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Outputs of a file for uint8 video (B, T, H, W)."""

FRAMES = 24
"""Frames of a check: an error in a state shows after the first frame, and grows."""
TOLERANCE = 1e-4
"""Largest difference of an output, over the largest output (at least 1): the same products, added in another order."""
LEAST_DICE = 0.99
"""Dice of int8 masks and those of the trained student, over all frames: rounding moves their border."""
_FPS = 32.0
"""Rate of the clips for a student that has none of its own."""
_SEED = 20_000_003
"""Of clips that no run draws unless it asks for this seed."""


@dataclass(frozen=True)
class Difference:
    """How far a file is from the trained student over ``frames`` frames.

    ``largest_difference`` is that of an output, ``allowed`` its bound (None: the masks decide), ``masks_dice`` the
    overlap of the masks.
    """

    frames: int
    largest_difference: float
    allowed: float | None
    masks_dice: float

    @property
    def is_small(self) -> bool:
        """Whether the file may be written."""
        return self.masks_dice >= LEAST_DICE if self.allowed is None else self.largest_difference <= self.allowed


def multiple_of(student: LoadedStudent) -> int:
    """The number that divides height and width of its frames."""
    assert student.file.options is not None, "load_student: a student describes its network"
    return 2 ** (student.file.options.blocks - 1)


def phantom_clips(student: LoadedStudent, count: int, *, first: int = 0) -> np.ndarray:
    """Clips of the student's size and rate: uint8 (count, `FRAMES`, s, s)."""
    source = default_phantom(
        seed=_SEED, num_frames=FRAMES, fps=student.fps or _FPS, size=student.size, case_frames=FRAMES
    )
    return np.stack([source.clip(first + index).video for index in range(count)])


def check_file(student: LoadedStudent, name: str, kind: str, data: bytes) -> Difference:
    """The difference of a file of a kind of `RUNNERS`, over a square clip and over two clips of another shape.

    Raises:
        RunError: the difference is too large.
    """
    clips = phantom_clips(student, 2)
    multiple = multiple_of(student)
    wide = clips[:, :, : max(multiple, student.size // (2 * multiple) * multiple)]
    run = RUNNERS[kind](data)
    parts = [_compare(student, run(video), video) for video in (clips[:1], wide)]
    largest, size = (max(part[place] for part in parts) for place in (0, 1))
    both, all_ = (sum(part[place] for part in parts) for place in (2, 3))
    allowed = None if kind == "int8" else TOLERANCE * max(1.0, size)
    found = Difference(FRAMES, largest, allowed, float(2 * both / all_) if all_ else 1.0)
    if not found.is_small:
        told = (
            f"its largest difference is {largest:.3g}, allowed is {allowed:.3g}"
            if allowed is not None
            else (f"the Dice of its masks and the student's is {found.masks_dice:.4f}, at least {LEAST_DICE} is asked")
        )
        raise RunError(f"--formats: {name} differs from the trained student over {FRAMES} frames: {told}; not written")
    return found


@torch.inference_mode()
def _compare(
    student: LoadedStudent, found: Sequence[np.ndarray], video_BTHW: np.ndarray
) -> tuple[float, float, int, int]:
    """Largest difference of an output and largest output; pixels in both masks, and in the one plus the other."""
    outputs = student.network(torch.from_numpy(np.ascontiguousarray(video_BTHW)))
    wanted = [output.numpy() for output in outputs if output is not None][: len(found)]
    largest = max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(found, wanted, strict=True))
    ours, mine = wanted[0] > 0, found[0] > 0
    if not all(np.isfinite(output).all() for output in found):
        largest = float("inf")
    return largest, float(np.abs(wanted[0]).max()), int((ours & mine).sum()), int(ours.sum() + mine.sum())


def _archive(data: bytes) -> Run:
    """Runs the ``.pt2`` file whose bytes this process has just made."""
    network = ExportedNetwork(
        data, sha256=hashlib.sha256(data).hexdigest(), where="the exported student", device="cpu", output="0"
    )
    network.requires_grad_(False)
    return lambda video: [network(torch.from_numpy(video.astype(np.float32))).detach().numpy()]


def _clip(data: bytes) -> Run:
    session = open_session(data)
    return lambda video: session.run(None, {"video": video.astype(np.float32)})


def _stream(data: bytes) -> Run:
    session = open_session(data)
    return lambda video: [run_stream(session, video)]


RUNNERS: dict[str, Callable[[bytes], Run]] = {"pt2": _archive, "onnx": _clip, "stream": _stream, "int8": _stream}
"""Opens a file, by kind."""
