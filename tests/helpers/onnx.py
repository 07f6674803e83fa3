"""Small ONNX files, written by hand: the wire format of protocol buffers, and a chain of convolutions.

Field numbers are those of onnx.proto3 (IR version 8, operator set 17). No ONNX package is needed to make them, and what
reads them in the tests (onnxruntime) had no part in writing them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

FLOAT = 1


def field(number: int, value: int | bytes | str) -> bytes:
    """One field: a whole number, or bytes, text or a message."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def tensor(name: str, values: np.ndarray) -> bytes:
    """TensorProto of float32 values."""
    dims = b"".join(field(1, side) for side in values.shape)
    return dims + field(2, FLOAT) + field(8, name) + field(9, np.ascontiguousarray(values, "<f4").tobytes())


def external_tensor(name: str, shape: Sequence[int], location: str) -> bytes:
    """TensorProto whose values lie in another file."""
    entry = field(1, "location") + field(2, location)
    return (
        b"".join(field(1, side) for side in shape) + field(2, FLOAT) + field(8, name) + field(13, entry) + field(14, 1)
    )


def node(kind: str, inputs: Sequence[str], output: str, **numbers: Sequence[int] | int | float) -> bytes:
    """NodeProto with attributes of whole numbers, or of one float."""
    found = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, value in numbers.items():
        if isinstance(value, float):
            attribute = field(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + field(20, 1)
        elif isinstance(value, int):
            attribute = field(1, name) + field(3, value) + field(20, 2)
        else:
            attribute = field(1, name) + b"".join(field(8, one) for one in value) + field(20, 7)
        found += field(5, attribute)
    return found


def value_info(name: str, shape: Sequence[int | str]) -> bytes:
    """ValueInfoProto of a float tensor; a side is a number or the name of one that is free."""
    sides = b"".join(field(1, field(1, side) if isinstance(side, int) else field(2, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, sides)))


def model(nodes: Sequence[bytes], tensors: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes]) -> bytes:
    """ModelProto."""
    graph = b"".join(field(1, one) for one in nodes) + field(2, "g") + b"".join(field(5, one) for one in tensors)
    graph += b"".join(field(11, one) for one in inputs) + b"".join(field(12, one) for one in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17))


def convolutions(
    weights: Sequence[tuple[np.ndarray, np.ndarray]], *, shape: Sequence[int | str], kernel: Sequence[int] = (3, 3)
) -> bytes:
    """Convolutions (weight, bias) with zero padding, a ReLU between them: (N, C, ...) -> logits (N, classes, ...)."""
    pads = [side // 2 for side in kernel] * 2
    nodes, tensors, at = [], [], "x"
    for place, (weight, bias) in enumerate(weights):
        tensors += [tensor(f"w{place}", weight), tensor(f"b{place}", bias)]
        last = place == len(weights) - 1
        out = "logits" if last else f"c{place}"
        nodes.append(node("Conv", [at, f"w{place}", f"b{place}"], out, kernel_shape=kernel, pads=pads))
        at = out
        if not last:
            nodes.append(node("Relu", [at], f"r{place}"))
            at = f"r{place}"
    classes = len(weights[-1][1])
    return model(nodes, tensors, [value_info("x", shape)], [value_info("logits", [shape[0], classes, *shape[2:]])])


def unet(weights: dict[str, np.ndarray], *, shape: Sequence[int | str]) -> bytes:
    """A U-Net of two levels in the manner of nnU-Net's plain 2-D one: x (N, C, H, W) -> logits (N, classes, H, W).

    Convolution, instance norm, leaky ReLU (0.01); a strided convolution down; a transposed convolution up, joined to
    the level's own features; then a 1 x 1 convolution. ``weights``: ``down0``, ``down1``, ``joined`` (3 x 3), ``up``
    (2 x 2, stride 2, in x out), ``head`` (1 x 1), each with ``NAME.bias``; and the norms' ``NAME.scale`` and
    ``NAME.shift``.
    """
    nodes: list[bytes] = []

    def block(name: str, at: str, stride: int) -> str:
        inputs = [at, name, f"{name}.bias"]
        nodes.append(node("Conv", inputs, f"{name}_c", kernel_shape=[3, 3], pads=[1] * 4, strides=[stride, stride]))
        norm = [f"{name}_c", f"{name}.scale", f"{name}.shift"]
        nodes.append(node("InstanceNormalization", norm, f"{name}_n", epsilon=1e-5))
        nodes.append(node("LeakyRelu", [f"{name}_n"], f"{name}_a", alpha=0.01))
        return f"{name}_a"

    top = block("down0", "x", 1)
    bottom = block("down1", top, 2)
    nodes.append(node("ConvTranspose", [bottom, "up", "up.bias"], "up_c", kernel_shape=[2, 2], strides=[2, 2]))
    nodes.append(node("Concat", ["up_c", top], "both", axis=1))
    joined = block("joined", "both", 1)
    nodes.append(node("Conv", [joined, "head", "head.bias"], "logits", kernel_shape=[1, 1]))
    tensors = [tensor(name, values) for name, values in weights.items()]
    classes = len(weights["head.bias"])
    return model(nodes, tensors, [value_info("x", shape)], [value_info("logits", [shape[0], classes, *shape[2:]])])


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += struct.pack("B", value & 127 | 128)
        value >>= 7
    return found + struct.pack("B", value)
