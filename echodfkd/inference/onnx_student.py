"""A student out of an ONNX file that `echodfkd.inference.export` wrote: for whole clips, or for a stream of frames.

The file may be a stranger's. Its metadata are checked as those of a ``student.safetensors`` are, and say which inputs,
states and outputs it must have.

Legend: T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from echodfkd.config.pins import read_initial_bytes
from echodfkd.core.errors import ClipError, InputError, one_line
from echodfkd.models.archives.onnx_file import open_onnx
from echodfkd.models.students.build import build_student
from echodfkd.models.students.streaming import State, StreamingStudent
from echodfkd.training.initial_weights import StudentFile, described_student

SUFFIX = ".onnx"
_CLIP, _FRAME = "video", "frame"


class OnnxStudent(nn.Module):
    """The network in an ONNX file, on the CPU.

    Args:
        session: of onnxruntime.
        file: options of the network that the session runs.
        where: name of the file, for errors.

    Raises:
        InputError: its inputs or outputs are not those of such a student.
    """

    def __init__(self, session: Any, file: StudentFile, where: str) -> None:
        super().__init__()
        assert file.options is not None
        self._session, self._classes = session, len(file.options.classes)
        names = [one.name for one in session.get_inputs()]
        self._is_stream = names[:1] == [_FRAME]
        with torch.device("meta"):
            network = build_student(**file.options.network)
        self._stream = StreamingStudent(network) if self._is_stream else None
        states = len(self._zeros(8, 8)) if self._is_stream else 0
        wanted = [_FRAME, *(f"state_{place}" for place in range(states))] if self._is_stream else [_CLIP]
        if names != wanted or any(one.type != "tensor(float)" for one in session.get_inputs()):
            raise InputError(
                f"{where} takes {', '.join(names) or 'nothing'}, expected {', '.join(wanted)} as echodfkd export writes"
            )
        self._outputs = [one.name for one in session.get_outputs()][: 1 + states]
        if self._outputs != ["logits", *(f"next_{place}" for place in range(states))]:
            raise InputError(
                f"{where} gives {', '.join(self._outputs) or 'nothing'}, expected logits and every next state"
            )

    def frames(self, video_THW: np.ndarray) -> Iterator[torch.Tensor]:
        """Logits (C, H, W) of every frame of a uint8 video. Raises `ClipError` if the network cannot take it."""
        T, H, W = video_THW.shape
        if not self._is_stream:
            (logits,) = self._run({_CLIP: video_THW[None].astype(np.float32)}, (1, T, self._classes, H, W))
            yield from torch.from_numpy(logits[0])
            return
        states = [np.zeros(tensor.shape, np.float32) for tensor in self._zeros(H, W)]
        for frame in video_THW:
            feed = {f"state_{place}": state for place, state in enumerate(states)}
            logits, *states = self._run(feed | {_FRAME: frame[None].astype(np.float32)}, (1, self._classes, H, W))
            yield torch.from_numpy(logits[0])

    def _zeros(self, height: int, width: int) -> State:
        """The states' shapes for frames of this size, without memory."""
        assert self._stream is not None
        return self._stream.first_state(1, height, width)

    def _run(self, feed: dict[str, np.ndarray], shape: tuple[int, ...]) -> list[np.ndarray]:
        try:
            outputs = self._session.run(self._outputs, feed)
        except Exception as error:  # onnxruntime has a class for each of its codes, none public
            raise ClipError(f"the student's ONNX file fails on this video: {one_line(error)}") from error
        if outputs[0].shape != shape or outputs[0].dtype != np.float32:
            raise ClipError(f"the student's ONNX file gives logits {outputs[0].dtype} {outputs[0].shape}, not {shape}")
        return list(outputs)


def read_onnx(path: str, *, option: str) -> tuple[Any, StudentFile]:
    """A session of onnxruntime, and what the file says of its network.

    Args:
        path: a path or an fsspec URL.
        option: the option that named it, for errors.

    Raises:
        InputError: it cannot be read, is no ONNX file, or describes no student.
    """
    data, where = read_initial_bytes(option, path), f"{option}: {path}"
    session = open_onnx(data, where=where, threads=torch.get_num_threads())
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise InputError(f"{where} has metadata that are no UTF-8 text") from error
    options, window = described_student(metadata, where)
    return session, StudentFile(path, hashlib.sha256(data).hexdigest(), {}, options, 0, window)
