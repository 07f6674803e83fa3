"""Sixteen students in one run against sixteen runs, modelled from the measured time of each stage.

Start-up aside, a run costs the work of its stages: making clips, making soft masks, and one training step per student.
A run of the whole family makes clips and masks once; sixteen runs of one student each make them sixteen times. If the
stages share the same cores, wall time is proportional to total work; if each stage has devices of its own, a run is as
slow as its busiest stage. Both ratios are reported; the target is for the first.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.models.students.build import build_student
from echodfkd.models.teachers.build import fold_echonet
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from tests.benchmarks.student_step import FILTERS, Training
from tests.benchmarks.teacher_frames import random_network
from tests.benchmarks.timing import Report, Stopwatch, interleave
from tests.helpers.teachers import lv_prob, masks_of

TARGET = 0.25
FAMILY = tuple(itertools.product((1, 2, 3, 4), (1, 2, 3, 4)))
"""(blocks, layers) of the published students."""
FRAMES, SIZE = 25, 56
"""The published training window."""


@dataclass(frozen=True)
class Costs:
    """Seconds per batch of each stage: clips, soft masks, and one step of each student."""

    source: float
    teacher: float
    students: Sequence[float]

    @property
    def shared(self) -> float:
        """One run over one run per student, stages sharing their devices: ratio of total work."""
        separate = sum(self.source + self.teacher + step for step in self.students)
        return (self.source + self.teacher + sum(self.students)) / separate

    @property
    def apart(self) -> float:
        """The same ratio if each stage has devices of its own: the busiest stage sets the pace."""
        separate = sum(max(self.source, self.teacher, step) for step in self.students)
        return max(self.source, self.teacher, sum(self.students)) / separate


def family_of_16(report: Report, *, quick: bool) -> dict[str, Any]:
    """Work of one run of 16 students over that of 16 runs, DeepLabV3 teacher, modelled from stages timed in turn."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clips, rounds = (32, 5) if device == "cuda" else (1, 1) if quick else (4, 5)
    members = FAMILY[:4] if quick else FAMILY
    rounds_of = measure(members, device=device, clips=clips, rounds=rounds)
    costs = [Costs(one["source"], one["teacher"], [one[f"{k}x{n}"] for k, n in members]) for one in rounds_of]
    found = [cost.shared for cost in costs]
    median = {name: statistics.median(one[name] for one in rounds_of) for name in rounds_of[0]}
    report(f"{'stage':<10} {'ms a batch':>11}   {clips} clips of {FRAMES} frames, {device}")
    for name, seconds in median.items():
        report(f"{name:<10} {1e3 * seconds:>11.1f}")
    apart = statistics.median(cost.apart for cost in costs)
    report(f"one run / {len(members)} runs: {statistics.median(found):.3f} [{min(found):.3f}, {max(found):.3f}]")
    report(f"if every stage has devices of its own: {apart:.3f}")
    return {
        "value": round(statistics.median(found), 4),
        "low": round(min(found), 4),
        "high": round(max(found), 4),
        "unit": f"work of one run of {len(members)} students over {len(members)} runs, modelled from measured stages",
        "target": TARGET,
        "holds": max(found) <= TARGET and not quick,
        "own_devices": round(apart, 4),
        "device": device,
        "milliseconds": {name: round(1e3 * seconds, 2) for name, seconds in median.items()},
    }


def measure(
    members: Sequence[tuple[int, int]], *, device: str, clips: int, rounds: int, frames: int = FRAMES
) -> list[dict[str, float]]:
    """Seconds of each stage by name, one dict per round. The stages run in turn."""
    from echodfkd.sources.phantom.source import default_phantom

    source = default_phantom(seed=1, num_frames=frames, fps=32.0, size=SIZE, case_frames=frames)
    video = np.stack([source.clip(index).video for index in range(clips)])
    teacher = TorchTeacher(*fold_echonet(random_network(0)), device=device, batch_frames=128)
    pixels = torch.from_numpy(video).to(device)
    target_prob = torch.from_numpy(lv_prob(teacher, video)).to(device)
    works: dict[str, Callable[[], tuple[float, ...]]] = {
        "source": _timed(lambda: [source.clip(index) for index in range(clips)], "cpu"),
        "teacher": _timed(lambda: masks_of(teacher, video, (), PROBABILITY), device),
    }
    for blocks, layers in members:
        student = build_student(blocks=blocks, layers=layers, filters=FILTERS, norm="batch")
        training = Training(student, pixels, target_prob, bf16=False)
        works[f"{blocks}x{layers}"] = _step_of(training)
    return _by_round(interleave(works, rounds), rounds)


def _timed(work: Callable[[], object], device: str) -> Callable[[], tuple[float, ...]]:
    def timed() -> tuple[float, ...]:
        watch = Stopwatch(device)
        start = watch.mark()
        work()
        return (watch.seconds(start, watch.mark()),)

    return timed


def _step_of(training: Training) -> Callable[[], tuple[float, ...]]:
    return lambda: training.timed_step()[1:]


def _by_round(times: Mapping[str, Sequence[tuple[float, ...]]], rounds: int) -> list[dict[str, float]]:
    return [{name: found[turn][0] for name, found in times.items()} for turn in range(rounds)]
