"""Count a student's parameters and its multiply-accumulates per frame, without computing anything.

Legend: T frames.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm import ConvLSTMStudent, count_parameters

STATED_SIZE = 112
"""Side in pixels of the frames that multiply-accumulates are stated for, here and in publications."""


def macs_per_frame(student: nn.Module, size: int) -> int:
    """Multiply-accumulates of all convolutions and matrix products for one more frame of size x size pixels.

    That is the cost of a clip of three frames less that of a clip of two: it includes the recurrent half, which the
    first frame skips. Runs on meta tensors. Norms, gates and other elementwise work (a linear recurrence's scan) are
    not counted, as is usual; ``student`` is left as it is.
    """
    shadow = copy.deepcopy(student).to("meta").eval()
    return _flops(shadow, 3, size) // 2 - _flops(shadow, 2, size) // 2


@torch.no_grad()
def _flops(student: nn.Module, num_frames: int, size: int) -> int:
    with FlopCounterMode(display=False) as counter:
        student(torch.empty(1, num_frames, size, size, device="meta"))
    return int(counter.get_total_flops())


def student_cost(options: Mapping[str, Any], size: int) -> dict[str, Any]:
    """``parameters``, ``widths`` of the blocks, and ``macs_per_frame`` at size x size pixels, of a student."""
    with torch.device("meta"):
        student = build_student(**options)
    body = next(module for module in student.modules() if isinstance(module, ConvLSTMStudent))
    return {
        "parameters": count_parameters(student),
        "widths": list(body.widths),
        "macs_per_frame": macs_per_frame(student, size),
    }


def student_facts(options: Mapping[str, Any]) -> dict[str, int]:
    """``parameters`` and ``macs_per_frame`` (at `STATED_SIZE`) of a student, as run.json keeps them."""
    cost = student_cost(options, STATED_SIZE)
    return {key: cost[key] for key in ("parameters", "macs_per_frame")}
