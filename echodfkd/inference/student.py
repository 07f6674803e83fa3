"""A student out of a run folder or a file, ready to segment.

Legend: T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from echodfkd.core.errors import InputError
from echodfkd.inference.hub import SCHEME, pull_student
from echodfkd.inference.onnx_student import SUFFIX, OnnxStudent, read_onnx
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.models.students.build import build_student
from echodfkd.models.students.streaming import StreamingStudent
from echodfkd.training.conversion import find_student
from echodfkd.training.initial_weights import StudentFile

CHUNK_FRAMES = 64
"""Frames that are held as network input at a time."""


@dataclass(frozen=True)
class LoadedStudent:
    """A student and the clips that it is made for.

    ``size`` is the side of its square frames in pixels, ``fps`` their rate; 0 keeps the video's own. ``file`` says
    where it comes from.
    """

    network: nn.Module
    classes: tuple[str, ...]
    size: int
    fps: float
    file: StudentFile

    @property
    def is_causal(self) -> bool:
        """Whether no mask depends on a later frame."""
        return self.file.options is not None and not self.file.options.bidirectional

    @property
    def network_side(self) -> int:
        """Side in pixels that the network resizes all frames to; 0 if it resizes none."""
        return 0 if self.file.options is None else self.file.options.side

    @torch.inference_mode()
    def probabilities(self, video_THW: np.ndarray) -> np.ndarray:
        """Probability of each class, float32 (T, C, H, W), for uint8 frames of this student's size and rate.

        A causal student runs frame by frame: only its state and the masks take memory. Others, and an ONNX file for
        whole clips, see the clip at once.
        """
        T, H, W = video_THW.shape
        prob = np.empty((T, len(self.classes), H, W), np.float32)
        for t, logits in enumerate(self._logits(video_THW)):
            prob[t] = logits.float().sigmoid().numpy()
        return prob

    def _logits(self, video_THW: np.ndarray) -> Iterable[torch.Tensor]:
        if isinstance(self.network, OnnxStudent):
            return self.network.frames(video_THW)
        if self.is_causal:
            return self._stream(video_THW)
        return self.network(torch.from_numpy(np.ascontiguousarray(video_THW)).unsqueeze(0)).mask_logits[0]

    def _stream(self, video_THW: np.ndarray) -> Iterator[torch.Tensor]:
        stream = StreamingStudent(self.network)
        state = stream.first_state(1, *video_THW.shape[1:])
        for frame in video_THW:
            logits, *after = stream(torch.from_numpy(np.ascontiguousarray(frame)).unsqueeze(0), *state)
            state = tuple(after)
            yield logits[0]


def load_student(
    source: str, *, name: str = "", size: int = 0, fps: float | None = None, option: str = "--student"
) -> LoadedStudent:
    """A published student.

    Args:
        source: one of `SHIPPED_STUDENTS`, a run folder (its newest checkpoint), a checkpoint's folder, a
            ``student.safetensors``, a ``.onnx`` file of `echodfkd.inference.export`, or a ``.ckpt`` of the authors; a
            path, an fsspec URL, or ``hf://OWNER/NAME`` (see `echodfkd.inference.hub`).
        name: which student, if the run has several.
        size: side of the frames; 0 is the student's own, or that of its training.
        fps: rate of the frames; None is that of its training, 0 keeps a video's own.
        option: names ``source`` in errors.

    Raises:
        InputError: there is no such student, or the file does not say what it was trained on and the arguments
            do not either.
    """
    source = pull_student(source, option=option) if source.startswith(SCHEME) else source
    is_onnx = source.endswith(SUFFIX)
    session, file = read_onnx(source, option=option) if is_onnx else (None, find_student(source, name, option=option))
    if file.options is None:
        raise InputError(f"{option}: {file.path} does not describe its network; name one that a run has published")
    if file.window is None and (not size or fps is None):
        raise InputError(
            f"{option}: {file.path} does not say which size and rate it was trained at; give both (--size, --fps)"
        )
    size = size or file.options.side or (file.window.size if file.window else 0)
    multiple = 1 if file.options.side else 2 ** (file.options.blocks - 1)
    if size < 16 or size % multiple:
        raise InputError(f"--size: got {size}, this student needs a multiple of {multiple} of at least 16")
    if is_onnx and file.options.side not in (0, size):  # the file's graph resizes nothing
        raise InputError(f"--size: got {size}, but {file.path} takes frames of {file.options.side} pixels only")
    rate = (file.window.fps if file.window else 0.0) if fps is None else fps
    network = OnnxStudent(session, file, f"{option}: {file.path}") if is_onnx else _torch_network(file, option)
    return LoadedStudent(network, tuple(file.options.classes), size, rate, file)


def _torch_network(file: StudentFile, option: str) -> nn.Module:
    assert file.options is not None
    network = build_student(**file.options.network).eval()
    load_weights(network, file.weights, what=f"{option}: {file.path}")
    return network
