"""Seconds of the students' training step in each precision.

Legend: B clips, T frames, C classes, H = W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from echodfkd.config.run import RunConfig
from echodfkd.core.precision import PRECISIONS, seconds_in_turn
from echodfkd.models.students.build import build_student
from echodfkd.training.engine import PrecisionModule

TIMED_CLIPS = 2
"""A step of many clips would take as long as all else of a run's start."""


def student_seconds(config: RunConfig, device: str) -> dict[str, float]:
    """Of forward and backward passes of all students over a micro-batch of at most `TIMED_CLIPS`, by precision.

    Engines, averages and further terms of the loss cost the same in each and are left out.
    """
    where, window = torch.device(device), config.window
    video = torch.zeros(
        min(config.micro_batch, TIMED_CLIPS), window.frames, window.size, window.size, dtype=torch.uint8
    )
    modules = [build_student(**student.network).to(where).train() for student in config.students.values()]
    video = video.random_(generator=torch.Generator().manual_seed(0)).to(where)

    def work(precision: str) -> Callable[[], None]:
        students = [PrecisionModule(module, precision=precision, device=where) for module in modules]
        return lambda: _train_all(students, video)

    return seconds_in_turn({precision: work(precision) for precision in PRECISIONS})


def _train_all(students: Sequence[nn.Module], video_BTHW: torch.Tensor) -> None:
    for student in students:
        logits = student(video_BTHW).mask_logits
        loss = logits.float().sigmoid().mean()
        loss.backward()
        student.zero_grad(set_to_none=True)
        loss.item()  # a GPU has ended its work by then
