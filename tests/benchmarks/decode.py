"""Decoders side by side on MJPEG AVI files of 112 x 112 pixels, the format of EchoNet-Dynamic."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from echodfkd.sources.video.decode import decode_video
from echodfkd.sources.video.encode import encode_avi
from tests.benchmarks.timing import Ratio, Report, interleave, timed

SIZE, FRAMES, WINDOW = 112, 176, 25
"""EchoNet-Dynamic's frame and mean length, and the published training window."""
TARGET = 1.0
"""The fastest other whole-file decoder over ours, in CPU seconds: ours is the one to choose at 1 or more."""


def naive_pyav(data: bytes) -> np.ndarray:
    """PyAV as its documentation shows it: default threads, a conversion context of its own for every frame."""
    import io

    import av

    with av.open(io.BytesIO(data), mode="r") as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def opencv(path: Path) -> np.ndarray:
    """OpenCV as EchoNet-Dynamic's loader uses it: BGR frames, here turned to grey."""
    cv2 = importlib.import_module("cv2")
    frames: list[np.ndarray] = []
    capture = cv2.VideoCapture(str(path))
    while True:
        found, frame = capture.read()
        if not found:
            return np.stack(frames)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))


def decode_window(data: bytes, start: int) -> np.ndarray:
    """`WINDOW` frames by our decoder, which leaves the others out."""
    stop = start + WINDOW
    return decode_video(data, name="clip", window=lambda frames, fps: (start, stop)).video[start:stop]


def decode(report: Report, *, quick: bool) -> dict[str, Any]:
    """CPU seconds of decoding a 112 x 112 MJPEG AVI: ours, PyAV as documented, OpenCV, and a window alone."""
    from echodfkd.sources.phantom.source import default_phantom

    frames = 32 if quick else FRAMES
    clip = default_phantom(seed=2, num_frames=frames, fps=50.0, size=SIZE, case_frames=frames).clip(0)
    data = encode_avi(clip.video, clip.fps)
    start = frames // 2 - WINDOW // 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.avi"
        path.write_bytes(data)
        works: dict[str, Callable[[], np.ndarray]] = {
            "ours": lambda: decode_video(path.read_bytes(), name="clip").video,
            "PyAV as documented": lambda: naive_pyav(path.read_bytes()),
            "OpenCV": lambda: opencv(path),
            "ours, window alone": lambda: decode_window(path.read_bytes(), start),
        }
        if importlib.util.find_spec("cv2") is None:
            del works["OpenCV"]
            report("OpenCV is not installed and left out")
        apart = differences(works, clip.video, start)
        times = interleave({name: timed(work) for name, work in works.items()}, 3 if quick else 40)
    seconds = {name: [cpu for _, cpu in taken] for name, taken in times.items()}
    ratios = {name: Ratio.of(found, seconds["ours"]) for name, found in seconds.items() if name != "ours"}
    report(f"{'decoder':<20} {'CPU ms':>8}   {'over ours':<20} {'largest difference to ours, levels':>36}")
    for name, found in seconds.items():
        over = str(ratios[name]) if name in ratios else ""
        report(f"{name:<20} {1e3 * float(np.median(found)):>8.2f}   {over:<20} {apart[name]:>36}")
    report(f"{frames} frames of {SIZE} x {SIZE}, {len(data) / frames:.0f} bytes each; the window has {WINDOW}")
    value = min(ratio.median for name, ratio in ratios.items() if "window" not in name)
    return {
        "value": round(value, 4),
        "unit": "CPU seconds of the fastest other decoder of whole files over ours, median of paired rounds",
        "target": TARGET,
        "holds": value >= TARGET,
        "over_ours": {name: asdict(ratio) for name, ratio in ratios.items()},
        "milliseconds": {name: round(1e3 * float(np.median(found)), 3) for name, found in seconds.items()},
        "levels_apart": apart,
        "bytes": len(data),
    }


def differences(works: dict[str, Callable[[], np.ndarray]], written: np.ndarray, start: int) -> dict[str, int]:
    """Largest difference of each decoder's pixels to ours, in grey levels."""
    ours = works["ours"]().astype(np.int16)
    assert ours.shape == written.shape
    found = {name: work().astype(np.int16) for name, work in works.items()}
    window = ours[start : start + WINDOW]
    return {name: int(np.abs(video - (window if "window" in name else ours)).max()) for name, video in found.items()}
