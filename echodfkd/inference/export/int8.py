"""Integers of 8 bits for the convolutions of a streaming student, calibrated on clips of the phantom."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from echodfkd.inference.export.graphs import need_onnx, quiet
from echodfkd.inference.export.sessions import first_feed, next_feed, open_session


def quantise(stream: bytes, clips_NTHW: np.ndarray) -> bytes:
    """The ONNX of `stream_onnx` with int8 weights and uint8 activations (static, QDQ), the rest in float32.

    Gates, states and norms stay float32: their sums over frames would carry every rounding on. Weights keep 7 of their
    8 bits (``reduce_range``), because processors without VNNI add products of 8 x 8 bits in 16 and would overflow:
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html

    Args:
        stream: of `stream_onnx`.
        clips_NTHW: uint8, of the student's size and rate; every frame, with its states, takes part in the calibration.
    """
    need_onnx()
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = _feeds(stream, clips_NTHW)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    model = onnx.load_from_string(stream)
    about = [(entry.key, entry.value) for entry in model.metadata_props]
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder, "int8.onnx")
        quantize_static(
            model,
            path,
            Frames(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        done = onnx.load(path)
    del done.metadata_props[:], done.graph.value_info[:]
    for key, text in about:
        done.metadata_props.add(key=key, value=text)
    return done.SerializeToString(deterministic=True)


def _feeds(stream: bytes, clips_NTHW: np.ndarray) -> Iterator[dict[str, Any]]:
    """Inputs of every frame, with the states that the float32 student has reached by then."""
    session = open_session(stream)
    for video in clips_NTHW:
        feed = first_feed(session, 1, *video.shape[1:])
        for frame in video:
            feed["frame"] = frame[None].astype(np.float32)
            yield dict(feed)
            _, feed = next_feed(session, feed)
