"""Networks loaded whole from files of others: ONNX, and archives of torch.export.

Each is a module (N, C, h, w) float -> output, with ``weights_hash`` and ``input_shape`` (the sizes that it insists on,
None if any will do). The risks of opening a file are described in docs/reference/teacher-files.md.

Legend: N frames (or windows), C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import logging
import os
from typing import Any

import numpy as np
import torch
from torch import nn

from echodfkd.core.errors import ConfigError, InputError, RunError, one_line
from echodfkd.models.archives.onnx_file import import_onnxruntime, open_onnx

MAX_FILE_BYTES = (1 << 31) - 1
"""Largest file of weights: the limit of a protobuf message, which an ONNX file is."""

_ONNX = "teacher.kind=onnx"
_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def read_pinned(path: str, sha256: str) -> bytes:
    """Read a weights file once, so that the bytes that were hashed are those that are parsed.

    Args:
        path: a local file.
        sha256: 64 hexadecimal digits that the file must have; "" takes any.

    Raises:
        InputError: no such file, too large, or another sha256 than the one wanted.
    """
    try:
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise InputError(f"teacher.weights: {path} has more than {MAX_FILE_BYTES} bytes")
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InputError(f"teacher.weights: {path} cannot be read: {error.strerror or error}") from error
    if sha256:
        check_sha256(data, sha256, path)
    return data


def check_sha256(data: bytes, sha256: str, where: str) -> None:
    """Raise `InputError` if a file's bytes have another sha256 than the pinned one."""
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(
            f"teacher.weights: {where} has the sha256 {found}, but teacher.sha256 is {sha256}; the file was not opened"
        )


class ForeignNetwork(nn.Module):
    """A network that comes with its weights, called through `forward`; its faults are `RunError`."""

    weights_hash: str
    input_shape: tuple[int | None, ...] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The network's output for its input.

        Raises:
            RunError: the network refuses the input, or runs out of memory.
        """
        try:
            return self._run(x)
        except RunError:
            raise
        except Exception as error:
            raise RunError(
                f"the teacher's network fails on an input of shape {tuple(x.shape)}: {one_line(error)}"
                " (teacher.layout, teacher.input_size, teacher.batch_frames)"
            ) from error

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class OnnxNetwork(ForeignNetwork):
    """An ONNX file in onnxruntime, see `echodfkd.models.archives.onnx_file`.

    Args:
        data: the file.
        where: its name, for errors.
        device: cpu or cuda.
        output: name of the output; "" if there is only one.

    Raises:
        InputError: onnxruntime is not installed, or the file is no ONNX model of one input.
        ConfigError: device is cuda and this onnxruntime has no CUDA.
    """

    def __init__(self, data: bytes, *, where: str, device: str, output: str) -> None:
        super().__init__()
        self.weights_hash = hashlib.sha256(data).hexdigest()[:8]
        self._session = _open_session(data, where=where, device=device)
        inputs, outputs = self._session.get_inputs(), [found.name for found in self._session.get_outputs()]
        if len(inputs) != 1 or inputs[0].type not in _NUMPY_TYPES:
            found = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise InputError(f"teacher.weights: {where} takes {found or 'nothing'}, expected one float tensor")
        if output not in outputs and (output or len(outputs) != 1):
            told = ", ".join(f"{one.name} {one.shape}" for one in self._session.get_outputs())
            raise InputError(f"teacher.output: got {output!r}, {where} gives {told}; name the one that holds the masks")
        self._input, self._output = inputs[0].name, output or outputs[0]
        self._dtype = _NUMPY_TYPES[inputs[0].type]
        self.input_shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape or ()) or None

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        feed = {self._input: np.ascontiguousarray(x.cpu().numpy(), self._dtype)}
        return torch.from_numpy(self._session.run([self._output], feed)[0]).to(x.device)


def onnx_device(device: str) -> str:
    """Resolve auto for onnxruntime: cuda if both torch and onnxruntime have it. Raises `InputError`."""
    if device != "auto":
        return device
    has_cuda = (
        torch.cuda.is_available() and "CUDAExecutionProvider" in import_onnxruntime(_ONNX).get_available_providers()
    )
    return "cuda" if has_cuda else "cpu"


def _open_session(data: bytes, *, where: str, device: str) -> Any:
    available = import_onnxruntime(_ONNX).get_available_providers()
    if device == "cuda" and "CUDAExecutionProvider" not in available:
        raise ConfigError(
            f"teacher.device: got cuda, but this onnxruntime has {', '.join(available)}; install onnxruntime-gpu in"
            " place of onnxruntime, or set teacher.device=cpu"
        )
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    threads = torch.get_num_threads()
    session = open_onnx(data, where=f"teacher.weights: {where}", threads=threads, providers=providers)
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise ConfigError(
            "teacher.device: got cuda, but onnxruntime cannot start its CUDA provider here (its log says which library"
            " it lacks); set teacher.device=cpu"
        )
    return session


class ExportedNetwork(ForeignNetwork):
    """A network that ``torch.export.save`` wrote.

    torch's loader unpickles parts of the file, so that opening it may run code: these very bytes are compared with a
    pinned sha256 first.

    Args:
        data: the file.
        sha256: that the file must have; never empty.
        where: its name, for errors.
        device: torch device.
        output: key or number of the output, if the network gives several.

    Raises:
        InputError: it has another sha256, is no such file, or takes something else than one tensor.
    """

    def __init__(self, data: bytes, *, sha256: str, where: str, device: str, output: str) -> None:
        super().__init__()
        check_sha256(data, sha256 or "missing", where)
        self.weights_hash = sha256[:8]
        self._name = output
        log = logging.getLogger("torch.export")
        log.disabled = True  # it would print the traceback of what is one sentence below
        try:
            program = torch.export.load(io.BytesIO(data))
            program = importlib.import_module("torch.export.passes").move_to_device_pass(program, device)
        except Exception as error:
            raise InputError(
                f"teacher.weights: {where} is no archive that torch.export of torch {torch.__version__} reads:"
                f" {one_line(error)}"
            ) from error
        finally:
            log.disabled = False
        inputs = [
            node.meta["val"]
            for node in program.graph.nodes
            if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
        ]
        if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
            raise InputError(f"teacher.weights: {where} takes {len(inputs)} inputs, expected one tensor")
        self.input_shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
        self._call = [program.module()]  # in a list: exported modules refuse .eval() and .to(), which they do not need

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        return one_output(self._call[0](x), self._name)


def one_output(output: Any, name: str) -> torch.Tensor:
    """One tensor of a network's output: of several, the one of this name (or number, in a list).

    A dictionary's ``out`` holds the masks by torchvision's convention. No other choice is made: networks with deep
    supervision give the finest map first or last.

    Raises:
        RunError: it gives several without this name, or no tensor.
    """
    entries = output if isinstance(output, dict) else None
    if isinstance(output, list | tuple):
        entries = {str(place): one for place, one in enumerate(output)}
    if entries is not None:
        name = name or ("out" if "out" in entries else next(iter(entries)) if len(entries) == 1 else "")
        if name not in entries:
            shapes = ", ".join(f"{key} {list(getattr(one, 'shape', ()))}" for key, one in entries.items())
            raise RunError(
                f"teacher.output: got {name!r}, but the network gives {shapes}; name the one that holds the masks"
            )
        output = entries[name]
    if not isinstance(output, torch.Tensor):
        raise RunError(f"teacher.output: the network gives a {type(output).__name__}, expected a tensor")
    return output
