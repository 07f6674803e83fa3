"""Exported students in onnxruntime.

Legend: B clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from echodfkd.models.archives.onnx_file import open_onnx

_STATE = "state_"


def open_session(data: bytes) -> Any:
    """An inference session on one thread of the CPU."""
    return open_onnx(data, where="the exported file", threads=1)


def run_stream(session: Any, video_BTHW: np.ndarray) -> np.ndarray:
    """Logits (B, T, C, H, W) of a streaming file for uint8 video, frame by frame."""
    B, T, H, W = video_BTHW.shape
    feed, logits = first_feed(session, B, H, W), []
    for t in range(T):
        feed["frame"] = video_BTHW[:, t].astype(np.float32)
        found, feed = next_feed(session, feed)
        logits.append(found)
    return np.stack(logits, axis=1)


def first_feed(session: Any, batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Zero states before the first frame, by the names of the inputs; the frame is still to be added."""
    sides = {"batch": batch, "height": height, "width": width}

    def side(axis: int | str) -> int:
        if isinstance(axis, int):
            return axis
        name, _, coarser = axis.partition("/")
        return sides[name] // int(coarser or 1)

    states = (one for one in session.get_inputs() if one.name.startswith(_STATE))
    return {one.name: np.zeros([side(axis) for axis in one.shape], np.float32) for one in states}


def next_feed(session: Any, feed: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits of a frame, and the states for the next one."""
    logits, *after = session.run(None, feed)
    return logits, {f"{_STATE}{place}": state for place, state in enumerate(after)}
