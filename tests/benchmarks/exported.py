"""Exported files of a student: bytes, frames a second on one core, and the Dice that int8 loses.

python -m tests.benchmarks.exported SOURCE [--size 112]
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from echodfkd.inference.export import checks
from echodfkd.inference.export.folder import FILES, export_folder
from echodfkd.inference.export.sessions import open_session, run_stream
from echodfkd.inference.student import LoadedStudent, load_student
from echodfkd.metrics.overlap import dice
from echodfkd.models.students.cost import macs_per_frame
from echodfkd.models.students.streaming import StreamingStudent
from echodfkd.sources.phantom.source import default_phantom

FRAMES, ROUNDS = 48, 3
SEED = 30_000_001
"""Of patients that neither training nor calibration has drawn."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, measure, print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--size", type=int, default=0, help="side of the frames; 0 is that of its training")
    parser.add_argument("--cases", type=int, default=12, help="phantom cases that the Dice is the mean of")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    checks.LEAST_DICE = 0.0  # the table shows it
    student = load_student(args.source, size=args.size, option="SOURCE")
    with tempfile.TemporaryDirectory() as folder:
        config = export_folder(student, folder, formats=["all"], say=print)
        files = {kind: Path(folder, name).read_bytes() for kind, name in FILES.items()}
        rows = measure(student, files, {name: file["bytes"] for name, file in config["files"].items()}, args.cases)
    flops, top = 2 * macs_per_frame(student.network, student.size), product_flops()
    print(f"{flops / 2e9:.2f} GMAC a frame; a matrix product of this core: {top / 1e9:.0f} GFLOP/s")
    for row in rows:
        row["share_of_core"] = row["frames_s"] * flops / top
        print(
            "| " + " | ".join(str(value) if not isinstance(value, float) else f"{value:.4g}" for value in row.values())
        )
    print(json.dumps(rows))
    return 0


def measure(
    student: LoadedStudent, files: dict[str, bytes], sizes: dict[str, int], num_cases: int
) -> list[dict[str, Any]]:
    """A row per way to run the student. Frames per second of the processor's own time, the best of some rounds."""
    source = default_phantom(seed=SEED, num_frames=FRAMES, fps=student.fps, size=student.size, case_frames=FRAMES)
    cases = [source.case(index) for index in range(num_cases)]
    videos = np.stack([case.video for case in cases])
    truth = np.stack([case.truth_labels == 1 for case in cases])
    sessions = {kind: open_session(files[kind]) for kind in ("onnx", "stream", "int8")}
    ways: dict[str, tuple[str, Callable[[np.ndarray], Any]]] = {
        "torch, whole clip": (
            "student.safetensors",
            lambda video: student.network(torch.from_numpy(video)).mask_logits,
        ),
        "torch, stream": ("student.safetensors", lambda video: torch_stream(student, video)),
        "onnxruntime, whole clip": (
            FILES["onnx"],
            lambda video: sessions["onnx"].run(None, {"video": video.astype(np.float32)})[0],
        ),
        "onnxruntime, stream": (FILES["stream"], lambda video: run_stream(sessions["stream"], video)),
        "onnxruntime, stream, int8": (FILES["int8"], lambda video: run_stream(sessions["int8"], video)),
    }
    rows = []
    for way, (file, run) in ways.items():
        with torch.inference_mode():
            taken = best_time(functools.partial(run, videos[:1]))
            pairs = zip(videos, truth, strict=True)
            scores = [dice(np.asarray(run(video[None]))[0, :, 0] > 0, mask).mean() for video, mask in pairs]
        rows.append({"way": way, "bytes": sizes[file], "frames_s": FRAMES / taken, "dice": float(np.mean(scores))})
    return rows


def best_time(run: Callable[[], Any]) -> float:
    """Seconds of the processor, the best of some rounds: other processes of the machine do not count."""
    taken = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        run()
        taken.append(time.process_time() - begin)
    return min(taken)


def product_flops() -> float:
    """Floating-point operations per second of a large matrix product on one thread."""
    a = torch.randn(1024, 1024)
    return 2.0 * 1024**3 / best_time(lambda: a @ a)


def torch_stream(student: LoadedStudent, video_BTHW: np.ndarray) -> torch.Tensor:
    """Logits frame by frame."""
    stream = StreamingStudent(student.network)
    state, logits = stream.first_state(len(video_BTHW), *video_BTHW.shape[2:]), []
    for t in range(video_BTHW.shape[1]):
        found, *after = stream(torch.from_numpy(video_BTHW[:, t]), *state)
        state = tuple(after)
        logits.append(found)
    return torch.stack(logits, dim=1)


if __name__ == "__main__":
    raise SystemExit(main())
