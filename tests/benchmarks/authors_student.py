"""The authors' ConvLSTM cell, a reference for speed and numbers.

Written from the published description: at each frame the input and the hidden state are concatenated, one convolution
gives the four gates, and autograd records every operation. The rest of the network is ours in both formulations.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.models.students.convlstm_cell import RecurrentConv2d


class AuthorsRecurrentConv2d(RecurrentConv2d):
    """`RecurrentConv2d`, computed frame by frame."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, hidden, H, W) of an input (B, T, C, H, W)."""
        B, T, _, H, W = input.shape
        h = c = input.new_zeros(B, self.hidden_channels, H, W)
        hidden = []
        for t in range(T):
            gates = F.conv2d(torch.cat([input[:, t], h], dim=1), self.weight, self.bias, padding=self.padding)
            i, f, o, g = gates.chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hidden.append(h)
        return torch.stack(hidden, dim=1)


def authors_student(student: nn.Module) -> nn.Module:
    """Copy a student with its weights, and replace its cells by the authors'."""
    twin = copy.deepcopy(student)
    for module in twin.modules():
        if type(module) is RecurrentConv2d:
            module.__class__ = AuthorsRecurrentConv2d
    return twin
