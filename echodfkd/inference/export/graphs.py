"""A student as files of other programs: a torch.export archive, and ONNX for whole clips or for a stream of frames.

Batch, time and size are free in all of them. Legend: B clips, T frames, C channels or classes, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from echodfkd.core.errors import InputError, one_line
from echodfkd.inference.export.networks import ClipStudent, clip_outputs, without_side
from echodfkd.models.students.streaming import StreamingStudent

_PRIMES = {"batch": 2, "time": 3, "height": 5, "width": 7}
"""Example sizes, in steps of the student's multiple: all differ, so that no two axes are taken to be one."""


def clip_program(student: nn.Module, multiple: int) -> ExportedProgram:
    """The program of a `ClipStudent`; ``multiple`` divides height and width."""
    video = torch.zeros(_PRIMES["batch"], _PRIMES["time"], multiple * _PRIMES["height"], multiple * _PRIMES["width"])
    sides = _sides(multiple)
    shapes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: sides[0], 3: sides[1]}
    with quiet():
        return torch.export.export(ClipStudent(student), (video,), dynamic_shapes=(shapes,))


def archive(program: ExportedProgram) -> bytes:
    """The bytes of a ``.pt2`` file. Its loader unpickles: a reader must know the file's sha256 beforehand."""
    sink = io.BytesIO()
    with quiet():
        torch.export.save(program, sink)
    return sink.getvalue()


def clip_onnx(program: ExportedProgram, student: nn.Module, about: Mapping[str, str]) -> bytes:
    """ONNX of a `clip_program`: ``video`` (B, T, H, W) -> `clip_outputs`. ``about`` becomes its metadata."""
    axes = {"video": ("batch", "time", "height", "width"), "logits": ("batch", "time", None, "height", "width")}
    axes |= {"phase_logits": ("batch", "time"), "ef": ("batch",)}
    return _onnx(program, ["video"], clip_outputs(student), axes, about)


def stream_onnx(student: nn.Module, multiple: int, about: Mapping[str, str]) -> bytes:
    """ONNX of one step: ``frame`` (B, H, W), ``state_0`` ... -> ``logits`` (B, C, H, W), ``next_0`` ...

    The states before the first frame are zeros.

    Raises:
        InputError: the student is bidirectional.
    """
    stream = StreamingStudent(without_side(student))
    height, width = multiple * _PRIMES["height"], multiple * _PRIMES["width"]
    frame = torch.zeros(_PRIMES["batch"], height, width)
    state = stream.first_state(_PRIMES["batch"], height, width)  # every tensor an object of its own: see below
    assert len({id(tensor) for tensor in state}) == len(state), "one object for two states would become one input"
    axes: dict[str, Sequence[str | None]] = {"frame": ("batch", "height", "width")}
    axes["logits"] = ("batch", None, "height", "width")
    shapes = []
    for place, tensor in enumerate(state):
        coarser = height // tensor.shape[-2]
        sides = _sides(multiple, coarser)
        shapes.append({0: Dim.DYNAMIC, 2: sides[0], 3: sides[1]})
        names = ("batch", None, *(side if coarser == 1 else f"{side}/{coarser}" for side in ("height", "width")))
        axes[f"state_{place}"] = axes[f"next_{place}"] = names
    sides = _sides(multiple)
    with quiet():
        program = torch.export.export(
            stream, (frame, *state), dynamic_shapes=({0: Dim.DYNAMIC, 1: sides[0], 2: sides[1]}, tuple(shapes))
        )
    count = range(len(state))
    inputs, outputs = ["frame", *(f"state_{n}" for n in count)], ["logits", *(f"next_{n}" for n in count)]
    return _onnx(program, inputs, outputs, axes, about)


def _sides(multiple: int, coarser: int = 1) -> tuple[Any, Any]:
    """Height and width as free axes, of a map that many times coarser than the frame."""
    factor = multiple // coarser
    steps = Dim("height_steps"), Dim("width_steps")
    return steps if factor == 1 else (factor * steps[0], factor * steps[1])


def _onnx(
    program: ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Sequence[str | None]],
    about: Mapping[str, str],
) -> bytes:
    """The ONNX file of a program, weights inside, with its axes named and ``about`` as metadata."""
    need_onnx()
    with quiet():
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=list(inputs), output_names=list(outputs)
        )
    assert exported is not None
    model = exported.model_proto
    del model.graph.value_info[:]  # they use the exporter's names of axes
    for value in (*model.graph.input, *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, axes[value.name], strict=True):
            if name is not None:
                dim.dim_param = name
    for key, text in sorted(about.items()):
        model.metadata_props.add(key=key, value=text)
    return model.SerializeToString(deterministic=True)


def need_onnx() -> None:
    """Raise `InputError` if a package of the extra ``export`` is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"--formats: ONNX needs {name}, which cannot be imported ({one_line(error)}); install the extra:"
                " pip install 'echodfkd[export]'"
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' notes on themselves: what matters is measured afterwards (`checks`)."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
