"""The sixteen published sizes as streams of 112 x 112 on one thread: torch, onnxruntime, onnxruntime with int8.

Weights are random: they decide neither speed nor bytes. What int8 does to masks needs a trained student:
``python -m tests.benchmarks.exported SOURCE``.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import WindowConfig
from echodfkd.inference.export.checks import multiple_of, phantom_clips
from echodfkd.inference.export.graphs import stream_onnx
from echodfkd.inference.export.int8 import quantise
from echodfkd.inference.export.sessions import open_session, run_stream
from echodfkd.inference.student import LoadedStudent
from echodfkd.models.students.build import build_student
from echodfkd.models.students.cost import macs_per_frame
from echodfkd.storage.checkpoints import pack_student
from echodfkd.training.initial_weights import StudentFile
from tests.benchmarks.exported import product_flops, torch_stream
from tests.benchmarks.timing import Report

SIZE, FRAMES, ROUNDS = 112, 8, 4
LEAST_FRAMES_S = 40.0
"""Of the 3x1 student in onnxruntime, on one core."""


def exported_sizes(report: Report, *, quick: bool) -> dict[str, Any]:
    """Frames a second and bytes of all sizes as streams, a JSON line each."""
    torch.set_num_threads(1)
    sizes = [(1, 1), (3, 1)] if quick else list(itertools.product(range(1, 5), range(1, 5)))
    rows = []
    for blocks, layers in sizes:
        rows.append(measure(blocks, layers, rounds=1 if quick else ROUNDS))
        report(json.dumps(rows[-1]))
    value = next(row["onnx_frames_s"] for row in rows if row["student"] == "3x1")
    return {
        "value": value,
        "unit": "frames/s of 3x1 in onnxruntime",
        "target": LEAST_FRAMES_S,
        "holds": value >= LEAST_FRAMES_S,
    }


def measure(blocks: int, layers: int, *, rounds: int) -> dict[str, Any]:
    """One size. The ways take turns, and each has its best round; the load is that of the machine before."""
    student = untrained(blocks, layers)
    clips = phantom_clips(student, 1)[:, :FRAMES]
    stream = stream_onnx(student.network, multiple_of(student), {})
    int8 = quantise(stream, clips)
    sessions = {"onnx": open_session(stream), "int8": open_session(int8)}
    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: torch_stream(student, clips),
        "onnx": lambda: run_stream(sessions["onnx"], clips),
        "int8": lambda: run_stream(sessions["int8"], clips),
    }
    load, taken = os.getloadavg()[0], {way: float("inf") for way in ways}
    with torch.inference_mode():
        for _, (way, run) in itertools.product(range(rounds), ways.items()):
            begin = time.process_time()
            run()
            taken[way] = min(taken[way], time.process_time() - begin)
    macs, top = macs_per_frame(student.network, SIZE), product_flops()
    row: dict[str, Any] = {
        "student": f"{blocks}x{layers}",
        "gmac": macs / 1e9,
        "gflops_of_core": top / 1e9,
        "load": load,
    }
    sizes = {"torch": len(pack_student(student.file.weights, {})), "onnx": len(stream), "int8": len(int8)}
    for way in ways:
        rate = FRAMES / taken[way]
        row |= {f"{way}_frames_s": rate, f"{way}_share": 2 * macs * rate / top, f"{way}_bytes": sizes[way]}
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def untrained(blocks: int, layers: int) -> LoadedStudent:
    """A student of this size with random weights."""
    torch.manual_seed(0)
    options = StudentConfig(blocks=blocks, layers=layers)
    network = build_student(**options.network).eval()
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    file = StudentFile("random", "0" * 64, weights, options, 0, WindowConfig(size=SIZE, fps=32.0))
    return LoadedStudent(network, ("LV",), SIZE, 32.0, file)
