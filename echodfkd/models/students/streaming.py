"""A causal student, one frame at a time: the state of its recurrent layers goes in and comes out.

The same weights as the student's own, in the same order of operations, so that frame t has the logits that the whole
clip gives it. Nothing here grows with the number of frames.

Legend: B clips, C channels or classes, Z hidden channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import InputError
from echodfkd.models.students.convlstm import ConvLSTMStudent
from echodfkd.models.students.convlstm_cell import PADDING, RecurrentConv2d
from echodfkd.models.students.heads import MultiTaskStudent
from echodfkd.models.students.recurrences import (
    BothDirections,
    FramesConv2d,
    GRUConv2d,
    MinGRUConv2d,
    SeparableRecurrentConv2d,
    ShiftedConv2d,
)
from echodfkd.models.students.sides import resize

State = tuple[torch.Tensor, ...]
"""Tensors (B, channels, h, w) of all layers, from the input to the deepest."""


class StreamingStudent(nn.Module):
    """Runs a student frame by frame, in evaluation mode.

    Args:
        student: of `echodfkd.models.students.build.build_student`; its weights are shared, not copied.

    Raises:
        InputError: the student is bidirectional, so that its first mask needs the last frame.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student.eval()
        network = student.network if isinstance(student, MultiTaskStudent) else student
        assert isinstance(network, ConvLSTMStudent)
        self._network: Any = network
        for layer in self._layers():
            if isinstance(layer, BothDirections) or (isinstance(layer, ShiftedConv2d) and layer.num_early):
                raise InputError(
                    "students.NAME.bidirectional: this student is bidirectional, its first mask needs the last frame;"
                    " only causal students run on a stream"
                )

    def first_state(self, batch: int, height: int, width: int) -> State:
        """The state before the first frame of (H, W) pixels: zeros, each tensor an object of its own."""
        like = next(self.student.parameters())
        height, width = self._network.working_sides(height, width)
        shapes = []
        for level, block in enumerate(self._network.conv_lstm_blocks):
            for recurrent in block.conv_lstm_layers[::2]:
                shapes += [
                    (channels, height >> level, width >> level) for channels in state_channels(recurrent.cell["conv"])
                ]
        return tuple(like.new_zeros(batch, *shape) for shape in shapes)

    def forward(self, frame: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of the masks (B, C, H, W) for one grey frame (B, H, W), 0..255, and the state after it.

        A phase head is not run: its value is read from the whole clip's output.
        """
        network, left = self._network, list(state)
        fitted = network.fit(frame).to(next(network.parameters()).dtype)
        x = ((fitted - network.input_mean) / network.input_std).unsqueeze(1)
        after: list[torch.Tensor] = []
        features = []
        for level, block in enumerate(network.conv_lstm_blocks):
            x = F.max_pool2d(x, 2) if level else x
            for recurrent, normed in zip(block.conv_lstm_layers[::2], block.conv_lstm_layers[1::2], strict=True):
                layer = recurrent.cell["conv"]
                own, left = left[: len(state_channels(layer))], left[len(state_channels(layer)) :]
                x, new = step_layer(layer, x, own)
                after += new
                x = normed(x)
            features.append(x)
        *shallower, x = features
        for level_up in network.conv_lstm_upsampling:
            x = level_up(x, shallower.pop() if network.skips else None)
        return (resize(network.output_layer(x), (frame.shape[-2], frame.shape[-1])), *after)

    def _layers(self) -> list[nn.Module]:
        return [layer.cell["conv"] for block in self._network.conv_lstm_blocks for layer in block.conv_lstm_layers[::2]]


def state_channels(layer: Any) -> Sequence[int]:
    """Channels of each state tensor of a recurrent layer."""
    if isinstance(layer, RecurrentConv2d | SeparableRecurrentConv2d):
        return (layer.hidden_channels, layer.hidden_channels)
    if isinstance(layer, GRUConv2d):
        return (layer.hidden_channels,)
    if isinstance(layer, MinGRUConv2d):
        return (layer.out_channels // 2,)
    if isinstance(layer, FramesConv2d):
        return (layer.frame_channels,) * layer.past
    assert isinstance(layer, ShiftedConv2d), f"no state is known of a {type(layer).__name__}"
    return (layer.num_late,) if layer.num_late else ()


def step_layer(layer: Any, x: torch.Tensor, state: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Output of one recurrent layer for one frame (B, C, H, W), and its state after it. See `recurrences`."""
    if isinstance(layer, RecurrentConv2d):
        gates = F.conv2d(torch.cat([x, state[0]], dim=1), layer.weight, layer.bias, padding=PADDING)
        return _lstm(gates, state[1])
    if isinstance(layer, SeparableRecurrentConv2d):
        both = torch.cat([x, state[0]], dim=1)
        spread = F.conv2d(both, layer.depthwise, padding=PADDING, groups=both.shape[1])
        return _lstm(F.conv2d(spread, layer.pointwise, layer.bias), state[1])
    if isinstance(layer, GRUConv2d):
        (h,) = state
        Z, C = layer.hidden_channels, x.shape[1]
        zr_weight, c_weight = layer.weight.split([2 * Z, Z])
        assert layer.bias is not None
        zr_bias, c_bias = layer.bias.split([2 * Z, Z])
        z, r = F.conv2d(torch.cat([x, h], dim=1), zr_weight, zr_bias, padding=PADDING).sigmoid().chunk(2, dim=1)
        c = F.conv2d(torch.cat([x, r * h], dim=1), c_weight, c_bias, padding=PADDING).tanh()
        assert C + Z == layer.in_channels
        h = h + z * (c - h)
        return h, [h]
    if isinstance(layer, MinGRUConv2d):
        gates = F.conv2d(x, layer.weight, layer.bias, padding=PADDING)
        z, c = gates.chunk(2, dim=1)
        h = state[0] + z.sigmoid() * (c - state[0])
        return h, [h]
    if isinstance(layer, FramesConv2d):
        seen = [x, *state]
        y = F.conv2d(torch.cat(seen, dim=1), layer.weight, layer.bias, padding=PADDING)
        return y.relu(), seen[: layer.past]
    assert isinstance(layer, ShiftedConv2d)
    late = x[:, : layer.num_late]
    shifted = torch.cat([*state, x[:, layer.num_late :]], dim=1)
    return F.conv2d(shifted, layer.weight, layer.bias, padding=PADDING).relu(), [late] if layer.num_late else []


def _lstm(gates: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    i, f, o, g = gates.chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h, [h, c]
