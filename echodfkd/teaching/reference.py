"""A stored frame and its mask, which a teacher must reproduce before a run starts.

Wrong pixel statistics, another order of channels or another input size raise no error, they only make masks worse. A
comparison with its author's own mask of one frame shows them. The file is safetensors: ``frame`` uint8 (T, H, W),
``prob`` float32 (T, C, H, W), and in the header's metadata ``classes``, the names of the C classes, joined by commas.
"""

from __future__ import annotations

import json
import os

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from echodfkd.core.errors import InputError, one_line
from echodfkd.models.teachers.protocol import Teacher
from echodfkd.storage.files import read_bytes
from echodfkd.storage.untrusted import parse_json_object

SUFFIX = ".reference.safetensors"
MAX_HEADER_BYTES = 1 << 16


def encode_reference(frame_THW: np.ndarray, prob_TCHW: np.ndarray, classes: tuple[str, ...]) -> bytes:
    """The bytes of a reference file; see the module for shapes and dtypes."""
    T, C, H, W = prob_TCHW.shape
    assert frame_THW.shape == (T, H, W), f"frame {frame_THW.shape}, mask {prob_TCHW.shape}"
    assert len(classes) == C, f"{len(classes)} classes, mask {prob_TCHW.shape}"
    tensors: dict[str, np.ndarray] = {
        "frame": np.ascontiguousarray(frame_THW, np.uint8),
        "prob": np.ascontiguousarray(prob_TCHW, np.float32),
    }
    return save_safetensors(tensors, {"classes": ",".join(classes)})


def make_reference(teacher: Teacher, frame_THW: np.ndarray) -> bytes:
    """A reference file of this teacher's masks of a frame uint8 (T, H, W), to check that later runs get the same."""
    return encode_reference(frame_THW, teacher.teach(frame_THW[None]).masks[0], teacher.class_names[1:])


def find_reference(reference: str, weights: str) -> str:
    """The reference file that belongs to a teacher: the one named, else the one beside the weights, else ""."""
    beside = f"{weights}{SUFFIX}"
    return reference or (beside if weights and "://" not in weights and os.path.isfile(beside) else "")


def check_reference(teacher: Teacher, path: str, *, tolerance: float) -> None:
    """Refuse a teacher that does not give the stored mask for the stored frame.

    Args:
        teacher: is shown the frame, as a clip of T frames.
        path: the reference file, a path or an fsspec URL.
        tolerance: largest difference of a probability.

    Raises:
        InputError: the file cannot be read, is for other classes, or a probability differs by more.
    """
    frame_THW, prob_TCHW, classes = _read_reference(path)
    if classes != teacher.class_names[1:]:
        raise InputError(
            f"teacher.reference: {path} is for the classes {', '.join(classes)}, but the teacher {teacher.teacher_id}"
            f" gives {', '.join(teacher.class_names[1:])}"
        )
    output = teacher.teach(frame_THW[None])
    if output.faults:
        raise InputError(f"teacher.reference: {path} cannot be compared: {output.faults[0]}")
    differs = np.abs(output.masks[0] - prob_TCHW)
    worst = float(differs.max())
    if worst > tolerance:
        name = classes[int(differs.max(axis=(0, 2, 3)).argmax())]
        raise InputError(
            f"teacher.reference: the teacher {teacher.teacher_id} does not give the mask stored in {path}: {name}"
            f" differs by up to {worst:.3g} (mean {float(differs.mean()):.3g}), allowed is {tolerance:g}"
            " (teacher.reference_tolerance); look at teacher.pixel_mean and pixel_std (grey levels 0..255, in the"
            " order of the channels), input_size, activation and outputs"
        )


def _read_reference(path: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    try:
        data = read_bytes(path)
        tensors = load_safetensors(data)
    except (OSError, SafetensorError, ValueError, KeyError, MemoryError) as error:
        raise InputError(f"teacher.reference: {path} cannot be read: {one_line(error)}") from error
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise InputError(f"teacher.reference: {path} has a header of {size} bytes")
    metadata = parse_json_object(data[8 : 8 + size], f"teacher.reference: {path}").get("__metadata__") or {}
    classes = tuple(str(metadata.get("classes", "")).split(","))
    nothing = np.zeros(0)
    frame, prob = tensors.get("frame", nothing), tensors.get("prob", nothing)
    fits = frame.dtype == np.uint8 and prob.dtype == np.float32 and frame.ndim == 3 and frame.size > 0
    fits = fits and prob.shape == (len(frame), len(classes), *frame.shape[1:])
    if not fits or not np.isfinite(prob).all():
        found = {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items()}
        raise InputError(
            f"teacher.reference: {path} holds {json.dumps(found)} for the classes {','.join(classes) or 'none'};"
            " expected frame uint8 [T, H, W], and prob float32 [T, C, H, W] without NaN"
        )
    return frame, prob, classes
