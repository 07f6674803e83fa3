"""What it brings that workers keep the memory that they free (`host_memory`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.deeplabv3 import INPUT_SIZE
from echodfkd.runtime.cluster.host_memory import KEPT_MEMORY
from tests.benchmarks.student_step import FILTERS, Setting, Training
from tests.benchmarks.teacher_frames import our_works, random_network
from tests.benchmarks.timing import Ratio, Report, Works, interleave, process_apart, timed, works_apart

TARGET = 1.0
"""Times as fast, of the work that gains least: keeping memory must never cost time."""
NOISE = 0.03
"""By how much a ratio of equals differs from 1 here."""


def kept_memory(report: Report, *, quick: bool) -> dict[str, Any]:
    """Teacher and training step with memory that is kept over without it, each in a process of its own (CPU)."""
    settings = [Setting(3, 1, 56, 4, 16)] + ([] if quick else [Setting(3, 1, 56, 32, 25)])
    frames = 8 if quick else 64
    with process_apart(KEPT_MEMORY) as kept, process_apart({}) as given_back:
        fast = works_apart(kept, cpu_works, settings, frames)
        slow = works_apart(given_back, cpu_works, settings, frames)
        works = {f"{name}, kept": work for name, work in fast.items()}
        times = interleave({**works, **slow}, 1 if quick else 5)
    ratios = {}
    report(f"{'times as fast with memory kept':<52}{'wall time':>20}{'CPU time':>20}")
    for name in slow:
        pair = zip(zip(*times[name], strict=True), zip(*times[f"{name}, kept"], strict=True), strict=True)
        ratios[name] = [Ratio.of(list(before), list(after)) for before, after in pair]
        report(f"{name:<52}" + "".join(f"{ratio!s:>20}" for ratio in ratios[name]))
    least = min(wall.median for wall, _ in ratios.values())
    return {
        "value": round(least, 3),
        "unit": "times as fast as without it, the work that gains least",
        "target": TARGET,
        "holds": least >= TARGET - NOISE,
        "ratios": {name: {"wall": asdict(wall), "cpu": asdict(cpu)} for name, (wall, cpu) in ratios.items()},
    }


def cpu_works(settings: Sequence[Setting], frames: int) -> Works:
    """A pass of the published teacher and training steps of students, in both precisions."""
    video = np.random.default_rng(0).integers(0, 256, (1, frames, INPUT_SIZE, INPUT_SIZE), dtype=np.uint8)
    teachers = our_works(random_network(0), video, "cpu").items()
    works = {f"teacher, {frames} frames, {name.removeprefix('ours ')}": work for name, work in teachers}
    torch.manual_seed(0)
    for setting in settings:
        student = build_student(blocks=setting.blocks, layers=setting.layers, filters=FILTERS, norm="batch")
        shape = (setting.clips, setting.frames, setting.size, setting.size)
        clips, target_prob = torch.randint(0, 256, shape, dtype=torch.uint8), torch.rand(shape)
        for precision in ("fp32", "bf16"):
            training = Training(copy.deepcopy(student), clips, target_prob, bf16=precision == "bf16")
            works[f"{setting}, {precision}"] = timed(training.timed_step)
    return works
