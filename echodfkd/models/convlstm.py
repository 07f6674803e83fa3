"""The student family: k blocks of n ConvLSTM layers (the authors' network, ConvLSTM-Segmentation/models.py).

Legend: B clips, T frames, C channels, H rows, W columns; N = B * T images.

An encoder block holds n ConvLSTM layers, each followed by a norm, and every block but the last ends in a
2 x 2 max-pool while the channels double. A decoder level is: nearest upsampling by 2, Conv2d 3 x 3, norm;
it has no skip connection and no activation. A 1 x 1 convolution gives one logit per pixel. State-dict keys
are those of the authors' checkpoints without their leading ``model.``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.models.norm import build_norm

KERNEL_SIZE = 3


class RecurrentConv2d(nn.Conv2d):
    """The one convolution of a ConvLSTM cell, run over a whole sequence.

    Its weight maps input and hidden channels to the four gates in the order input, forget, output,
    candidate (sigmoid, sigmoid, sigmoid, tanh); then c = f * c + i * g and h = o * tanh(c), from zero
    states and without peepholes (Shi et al. 2015, as the authors simplified it).

    The input's half of the convolution does not depend on time, so it runs once over all frames; only
    the hidden half stays in the loop. Weight and bias are used in this module's own forward alone, which
    is what parameter sharding (ZeRO stage 3) asks for.
    """

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__(in_channels + hidden_channels, 4 * hidden_channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.hidden_channels = hidden_channels

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Hidden states (B, T, hidden, H, W) of an input (B, T, C, H, W)."""
        B, T, C, H, W = input.shape
        weight_x, weight_h = self.weight.split([C, self.hidden_channels], dim=1)
        frames_NCHW = input.reshape(B * T, C, H, W)
        fixed = F.conv2d(frames_NCHW, weight_x, self.bias, padding=self.padding).view(B, T, -1, H, W)
        hidden: list[torch.Tensor] = []
        c_BCHW: torch.Tensor | None = None
        for gates in fixed.unbind(1):  # indexing by t would make the backward pass quadratic in T
            if hidden:  # before the first frame the hidden state is zero and adds nothing
                gates = gates + F.conv2d(hidden[-1], weight_h, None, padding=self.padding)
            if gates.dtype in (torch.bfloat16, torch.float16):
                gates = gates.float()  # the cell state sums over frames: autocast must not round it
            ifo, g = gates.split([3 * self.hidden_channels, self.hidden_channels], dim=1)
            i, f, o = ifo.sigmoid().chunk(3, dim=1)
            c_BCHW = i * g.tanh() if c_BCHW is None else f * c_BCHW + i * g.tanh()
            hidden.append(o * c_BCHW.tanh())
        return torch.stack(hidden, dim=1)


class ConvLSTMLayer(nn.Module):
    """One ConvLSTM layer; its convolution is named as in the authors' checkpoints."""

    def __init__(self, in_channels: int, filters: int) -> None:
        super().__init__()
        self.cell = nn.ModuleDict({"conv": RecurrentConv2d(in_channels, filters)})

    def forward(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> (B, T, filters, H, W)."""
        return self.cell["conv"](x_BTCHW)


class FrameLayer(nn.Module):
    """A layer that treats every frame alone, under the name that the authors' checkpoints give it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Apply the layer to (N, C, H, W)."""
        return self.layer(x_NCHW)


class ConvLSTMBlock(nn.Module):
    """n ConvLSTM layers of the same width, a norm after each. (B, T, C, H, W) -> (B, T, filters, H, W)."""

    def __init__(self, *, in_channels: int, filters: int, layers: int, norm: str) -> None:
        super().__init__()
        self.conv_lstm_layers = nn.ModuleList()
        for layer in range(layers):
            self.conv_lstm_layers.append(ConvLSTMLayer(in_channels if layer == 0 else filters, filters))
            self.conv_lstm_layers.append(FrameLayer(build_norm(norm, filters)))

    def forward(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        """Run the layers in turn."""
        for recurrent, normed in zip(self.conv_lstm_layers[::2], self.conv_lstm_layers[1::2], strict=True):
            x_BTCHW = recurrent(x_BTCHW)
            x_BTCHW = normed(x_BTCHW.flatten(0, 1)).view(x_BTCHW.shape)
        return x_BTCHW


class UpsamplingBlock(nn.Module):
    """Nearest upsampling by 2, Conv2d 2c -> c, norm. (N, 2c, H, W) -> (N, c, 2H, 2W)."""

    def __init__(self, *, filters: int, norm: str) -> None:
        super().__init__()
        conv = nn.Conv2d(2 * filters, filters, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.conv_lstm_layers = nn.ModuleList(
            [
                nn.Upsample(scale_factor=2, mode="nearest"),
                FrameLayer(conv),
                FrameLayer(build_norm(norm, filters)),
            ]
        )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """One decoder level."""
        for layer in self.conv_lstm_layers:
            x_NCHW = layer(x_NCHW)
        return x_NCHW


class ConvLSTMStudent(nn.Module):
    """One student of the family.

    Args:
        blocks: k, encoder blocks; sides must be divisible by 2^(k-1).
        layers: n, ConvLSTM layers per block.
        filters: channels of the first block, doubled in each further one.
        norm: batch (`SyncedBatchNorm2d`) or group.
        input_mean: grey level that becomes 0.
        input_std: grey levels that become 1. Both are constants and not in the state dict.
    """

    def __init__(
        self, *, blocks: int, layers: int, filters: int, norm: str, input_mean: float, input_std: float
    ) -> None:
        super().__init__()
        self.input_mean = input_mean
        self.input_std = input_std
        self.multiple = 2 ** (blocks - 1)
        widths = [filters * 2**level for level in range(blocks)]
        self.conv_lstm_blocks = nn.ModuleList(
            ConvLSTMBlock(in_channels=before, filters=width, layers=layers, norm=norm)
            for before, width in zip([1, *widths], widths, strict=False)
        )
        self.conv_lstm_upsampling = nn.ModuleList(
            UpsamplingBlock(filters=width, norm=norm) for width in reversed(widths[:-1])
        )
        self.output_layer = FrameLayer(nn.Conv2d(filters, 1, 1))

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """LV logits (B, T, H, W) of grey video (B, T, H, W), uint8 or float, 0..255.

        Raises:
            ValueError: H or W is not a multiple of 2^(blocks-1), or the input is not (B, T, H, W).
        """
        if video.ndim != 4:
            raise ValueError(f"a student takes video of shape (B, T, H, W), got {tuple(video.shape)}")
        B, T, H, W = video.shape
        if H % self.multiple or W % self.multiple:
            raise ValueError(
                f"frames of {H} x {W} pixels do not fit a student of {len(self.conv_lstm_blocks)} blocks:"
                f" height and width must be multiples of {self.multiple}"
            )
        dtype = next(self.parameters()).dtype
        x = (video.to(dtype) - self.input_mean) / self.input_std
        x = x.unsqueeze(2)
        for block in self.conv_lstm_blocks:
            if block is not self.conv_lstm_blocks[0]:
                x = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, (B, T))
            x = block(x)
        x = x.flatten(0, 1)
        for level in self.conv_lstm_upsampling:
            x = level(x)
        return self.output_layer(x).view(B, T, H, W)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters (of the whole module, also where ZeRO stage 3 has sharded it)."""
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in module.parameters() if p.requires_grad)


def macs_per_frame(blocks: int, layers: int, filters: int, size: int) -> int:
    """Multiply-accumulates of the convolutions for one frame of size x size pixels.

    Gates, norms and biases are not counted, as is usual.
    """
    total = filters * size**2  # the 1 x 1 head
    for level in range(blocks):
        width, pixels = filters * 2**level, (size // 2**level) ** 2
        first = 1 if level == 0 else width // 2
        inputs = [first] + [width] * (layers - 1)
        total += sum(KERNEL_SIZE**2 * (before + width) * 4 * width * pixels for before in inputs)
        if level < blocks - 1:
            total += KERNEL_SIZE**2 * 2 * width * width * pixels
    return total
