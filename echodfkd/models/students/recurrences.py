"""Recurrent layers of students: the ConvLSTM and its relatives, all from zero states.

Legend: B clips, T frames, C channels, H rows, W columns. `*` is a 3 x 3 convolution, `.` an elementwise product.

Every module here maps (B, T, C, H, W) to (B, T, hidden, H, W), computes everything that does not depend on the hidden
state once over all frames, holds no state between calls, and uses its weights only in its own forward (parameter
sharding, ZeRO stage 3, requires that). Under autocast, states stay float32: they sum over frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.models.students.convlstm_cell import KERNEL_SIZE, RecurrentConv2d

SHIFT_DIVISOR = 8
"""One channel in 8 is shifted per direction (Lin et al. 2019, their choice of proportion)."""


class SeparableRecurrentConv2d(nn.Module):
    """A ConvLSTM whose convolutions are depthwise-separable.

    The gates' convolution of input and hidden channels is a 3 x 3 convolution of every channel by itself, then a
    1 x 1 convolution to the four gates; the rest is `RecurrentConv2d` (Pfeuffer and Dietmayer 2019, "Separable
    convolutional LSTMs for faster video segmentation", after Howard et al. 2017). Weights start as torch's own
    Conv2d would draw them.
    """

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.hidden_channels = hidden_channels
        channels = in_channels + hidden_channels
        self.depthwise = nn.Parameter(torch.empty(channels, 1, KERNEL_SIZE, KERNEL_SIZE))
        self.pointwise = nn.Parameter(torch.empty(4 * hidden_channels, channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(4 * hidden_channels))
        for parameter, fan_in in ((self.depthwise, KERNEL_SIZE**2), (self.pointwise, channels), (self.bias, channels)):
            nn.init.uniform_(parameter, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, hidden, H, W) of an input (B, T, C, H, W)."""
        channels = [input.shape[2], self.hidden_channels]
        depthwise_x, depthwise_h = self.depthwise.split(channels, dim=0)
        pointwise_x, pointwise_h = self.pointwise.split(channels, dim=1)
        frames_NCHW = F.conv2d(input.flatten(0, 1), depthwise_x, padding=KERNEL_SIZE // 2, groups=channels[0])
        fixed = F.conv2d(frames_NCHW, pointwise_x, self.bias).unflatten(0, input.shape[:2])
        hidden: list[torch.Tensor] = []
        c_BCHW: torch.Tensor | None = None
        for gates in fixed.unbind(1):
            if hidden:
                spread = F.conv2d(hidden[-1], depthwise_h, padding=KERNEL_SIZE // 2, groups=channels[1])
                gates = gates + F.conv2d(spread, pointwise_h)
            i, f, o, g = _at_least_float32(gates).chunk(4, dim=1)
            new = i.sigmoid() * g.tanh()
            c_BCHW = new if c_BCHW is None else f.sigmoid() * c_BCHW + new
            hidden.append(o.sigmoid() * c_BCHW.tanh())
        return torch.stack(hidden, dim=1)


class GRUConv2d(nn.Conv2d):
    """The convolutions of a ConvGRU, run over a whole sequence.

    z = sigmoid(Wz * x + Uz * h), r = sigmoid(Wr * x + Ur * h), c = tanh(Wc * x + Uc * (r . h)) and
    h = (1 - z) . h + z . c, with the gates in the order update, reset, candidate (Ballas et al. 2016, "Delving
    deeper into convolutional networks for learning video representations", eqs. 6 to 9).
    """

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__(in_channels + hidden_channels, 3 * hidden_channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.hidden_channels = hidden_channels

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, hidden, H, W) of an input (B, T, C, H, W)."""
        gates_and_candidate = [2 * self.hidden_channels, self.hidden_channels]
        weight_x, weight_h = self.weight.split([input.shape[2], self.hidden_channels], dim=1)
        weight_zr, weight_c = weight_h.split(gates_and_candidate)
        fixed = F.conv2d(input.flatten(0, 1), weight_x, self.bias, padding=self.padding)
        hidden: list[torch.Tensor] = []
        for frame in fixed.unflatten(0, input.shape[:2]).unbind(1):
            zr, c = _at_least_float32(frame).split(gates_and_candidate, dim=1)
            if not hidden:  # before the first frame the hidden state is zero and adds nothing
                hidden.append(zr[:, : self.hidden_channels].sigmoid() * c.tanh())
                continue
            h_BCHW = hidden[-1]
            z, r = (zr + F.conv2d(h_BCHW, weight_zr, padding=self.padding)).sigmoid().chunk(2, dim=1)
            c = (c + F.conv2d(r * h_BCHW, weight_c, padding=self.padding)).tanh()
            hidden.append(h_BCHW + z * (c - h_BCHW))
        return torch.stack(hidden, dim=1)


class MinGRUConv2d(nn.Conv2d):
    """A minimal gated recurrence: gate and candidate depend only on the input.

    z = sigmoid(Wz * x), c = Wc * x and h = (1 - z) . h + z . c (Feng et al. 2024, "Were RNNs all we needed?",
    minGRU, with convolutions in place of its linear maps). The state is linear in itself, so that all frames are
    computed by one parallel scan.
    """

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__(in_channels, 2 * hidden_channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, hidden, H, W) of an input (B, T, C, H, W)."""
        gates = super().forward(input.flatten(0, 1)).unflatten(0, input.shape[:2])
        z, c = _at_least_float32(gates).chunk(2, dim=2)
        z = z.sigmoid()
        return linear_scan(1 - z, z * c)


class ShiftedConv2d(nn.Conv2d):
    """No recurrence: a convolution of each frame, after an eighth of its channels came one frame late.

    Bidirectional, another eighth comes one frame early. Missing frames are zero; a ReLU follows, since nothing
    else would bend the map (Lin, Gan and Han 2019, "TSM: temporal shift module for efficient video understanding";
    unidirectional: their online shift). Inputs of fewer than 8 channels, as the image, are not shifted.
    """

    def __init__(self, in_channels: int, hidden_channels: int, *, bidirectional: bool) -> None:
        super().__init__(in_channels, hidden_channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.num_late = in_channels // SHIFT_DIVISOR
        self.num_early = self.num_late if bidirectional else 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Features (B, T, hidden, H, W), not negative, of an input (B, T, C, H, W)."""
        kept = input.shape[2] - self.num_late - self.num_early
        late, early, same = input.split([self.num_late, self.num_early, kept], dim=2)
        missing = (0, 0, 0, 0, 0, 0)
        late = F.pad(late, (*missing, 1, 0))[:, :-1]
        early = F.pad(early, (*missing, 0, 1))[:, 1:]
        shifted = torch.cat([late, early, same], dim=2)
        return super().forward(shifted.flatten(0, 1)).relu().unflatten(0, input.shape[:2])


class FramesConv2d(nn.Conv2d):
    """No recurrence: a 3 x 3 convolution over this frame and the ``past`` ones before it, and a ReLU.

    With no past frame the layer of a plain 2-D network; with two a causal 3 x 3 x 3 convolution, as in video networks
    (Cicek et al. 2016, "3D U-Net", there with a later frame). Frames before the first are zero. The weight holds this
    frame's channels, then those of the frame before, and so on.
    """

    def __init__(self, in_channels: int, hidden_channels: int, past: int) -> None:
        super().__init__(in_channels * (1 + past), hidden_channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.past, self.frame_channels = past, in_channels

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Features (B, T, hidden, H, W), not negative, of an input (B, T, C, H, W)."""
        T = input.shape[1]
        seen = [F.pad(input, (0, 0, 0, 0, 0, 0, late, 0))[:, :T] for late in range(self.past + 1)]
        return super().forward(torch.cat(seen, dim=2).flatten(0, 1)).relu().unflatten(0, input.shape[:2])


class BothDirections(nn.Module):
    """Two recurrences of half the width, one along time and one against it, side by side.

    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks". Not causal: for recordings, not for a
    live stream.
    """

    def __init__(self, along: nn.Module, against: nn.Module) -> None:
        super().__init__()
        self.along = along
        self.against = against

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> (B, T, hidden, H, W)."""
        return torch.cat([self.along(input), self.against(input.flip(1)).flip(1)], dim=2)


def build_recurrence(kind: str, in_channels: int, hidden_channels: int, *, bidirectional: bool) -> nn.Module:
    """The layer of this kind: (B, T, C, H, W) -> (B, T, hidden, H, W).

    Raises:
        ValueError: another kind, one that cannot run against time, or an odd width that cannot be halved.
    """
    if kind == "shift":
        return ShiftedConv2d(in_channels, hidden_channels, bidirectional=bidirectional)
    if kind in PAST_FRAMES:
        if bidirectional:
            raise ValueError(f"bidirectional: got True, but a layer of kind {kind} has no state to run against time")
        return FramesConv2d(in_channels, hidden_channels, PAST_FRAMES[kind])
    if kind not in _RECURRENCES:
        raise ValueError(f"recurrence: got {kind!r}, allowed are {', '.join(RECURRENCES)}")
    build = _RECURRENCES[kind]
    if not bidirectional:
        return build(in_channels, hidden_channels)
    if hidden_channels % 2:
        raise ValueError(f"filters: got {hidden_channels}, a bidirectional student needs an even number")
    half = hidden_channels // 2
    return BothDirections(build(in_channels, half), build(in_channels, half))


def linear_scan(decay: torch.Tensor, drive: torch.Tensor) -> torch.Tensor:
    """All states of h_t = decay_t . h_{t-1} + drive_t with h_{-1} = 0, along the second dimension, in parallel.

    Two neighbouring steps are one step of the same form: (d1, b1) then (d2, b2) is (d1 d2, d2 b1 + b2). So pairs
    are joined, half as many steps are solved in the same way, and the steps between follow from them: about 3 T
    operations in 2 log2(T) rounds (Blelloch 1990, "Prefix sums and their applications", section 1.4). Nothing is
    divided and no logarithm taken, so that decays near or at 0 are exact.

    Args:
        decay: (B, T, ...).
        drive: the same shape and dtype.

    Returns:
        The states (B, T, ...).
    """
    T = decay.shape[1]
    if T == 1:
        return drive
    pairs = T // 2
    decay_first, decay_second = decay[:, : 2 * pairs].unflatten(1, (pairs, 2)).unbind(2)
    drive_first, drive_second = drive[:, : 2 * pairs].unflatten(1, (pairs, 2)).unbind(2)
    second = linear_scan(decay_first * decay_second, decay_second * drive_first + drive_second)
    later = drive_first[:, 1:] + decay_first[:, 1:] * second[:, :-1]
    first = torch.cat([drive_first[:, :1], later], dim=1)
    states = torch.stack([first, second], dim=2).flatten(1, 2)
    if T % 2:
        states = torch.cat([states, decay[:, -1:] * second[:, -1:] + drive[:, -1:]], dim=1)
    return states


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


_RECURRENCES: dict[str, Callable[[int, int], nn.Module]] = {
    "convlstm": RecurrentConv2d,
    "convlstm_separable": SeparableRecurrentConv2d,
    "convgru": GRUConv2d,
    "mingru": MinGRUConv2d,
}

PAST_FRAMES = {"none": 0, "conv3d": 2}
"""Kinds without a state and how many frames back each layer sees; they run along time only."""

RECURRENCES = (*_RECURRENCES, "shift", *PAST_FRAMES)
"""Values of a student's option ``recurrence``."""
