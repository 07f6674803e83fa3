"""The networks that are exported: the student's own weights, with every loop over frames as one operator.

A loop of Python would be unrolled: the graph would hold one copy of the network per frame, and take clips of one length
only. `torch._higher_order_ops.scan` is the operator that both torch.export and the ONNX exporter keep as a loop.

Legend: B clips, T frames, C channels or classes, H rows, W columns.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._higher_order_ops.scan import scan

from echodfkd.models.students.convlstm import ConvLSTMStudent
from echodfkd.models.students.recurrences import BothDirections, FramesConv2d, ShiftedConv2d
from echodfkd.models.students.streaming import state_channels, step_layer


class ClipStudent(nn.Module):
    """A student for whole clips: float32 grey (B, T, H, W), 0..255 -> the outputs that `clip_outputs` names.

    Args:
        student: of `echodfkd.models.students.build.build_student`; it is copied.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = without_side(student)
        for module in list(self.student.modules()):
            if isinstance(module, nn.ModuleDict) and "conv" in module:
                module["conv"] = _scanned(module["conv"])

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits (B, T, C, H, W), then the outputs of the heads that the student has."""
        return tuple(output for output in self.student(video) if output is not None)


def without_side(student: nn.Module) -> nn.Module:
    """A copy in evaluation mode that resizes nothing: the files take frames of the student's side."""
    copied = copy.deepcopy(student).eval()
    for module in copied.modules():
        if isinstance(module, ConvLSTMStudent):
            module.side = 0
    return copied


def clip_outputs(student: Any) -> tuple[str, ...]:
    """Names of the outputs of a `ClipStudent`: logits, then phase_logits (B, T) and ef (B,), if it has these heads."""
    heads = {"phase_logits": getattr(student, "phase_head", None), "ef": getattr(student, "ef_head", None)}
    return ("logits", *(name for name, head in heads.items() if head is not None))


class ScannedLayer(nn.Module):
    """A recurrent layer whose loop over the frames is one operator: (B, T, C, H, W) -> (B, T, hidden, H, W)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        """The layer's output from zero states."""
        B, _, _, H, W = x_BTCHW.shape
        start = [x_BTCHW.new_zeros(B, channels, H, W) for channels in state_channels(self.layer)]

        def step(state: Sequence[torch.Tensor], frame: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
            output, after = step_layer(self.layer, frame, state)
            return [tensor.clone() for tensor in after], output.clone()  # the operator's results must not share memory

        _, y_TBCHW = scan(step, start, x_BTCHW.transpose(0, 1).contiguous())
        return y_TBCHW.transpose(0, 1).contiguous()


def _scanned(layer: nn.Module) -> nn.Module:
    if isinstance(layer, BothDirections):
        return BothDirections(ScannedLayer(layer.along), ScannedLayer(layer.against))
    return layer if isinstance(layer, ShiftedConv2d | FramesConv2d) else ScannedLayer(layer)  # these have no loop
