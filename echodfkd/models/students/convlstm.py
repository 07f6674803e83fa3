"""The student family: k blocks of n recurrent layers (the authors' network, ConvLSTM-Segmentation/models.py).

Legend: B clips, T frames, C channels, H rows, W columns; N = B * T images.

An encoder block holds n ConvLSTM layers, each followed by a norm, and every block but the last ends in a
2 x 2 max-pool while the channels double. A decoder level is: nearest upsampling by 2, Conv2d 3 x 3, norm;
in the authors' network it has no skip connection and no activation. A 1 x 1 convolution gives one logit per
pixel. State-dict keys are those of the authors' checkpoints without their leading ``model.``; variants
use the same keys for the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.models.students.convlstm_cell import KERNEL_SIZE
from echodfkd.models.students.norm import build_norm
from echodfkd.models.students.output import StudentOutput
from echodfkd.models.students.recurrences import build_recurrence
from echodfkd.models.students.sides import resize, working_sides

ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
"""Values of a student's option ``activation``."""


class ConvLSTMLayer(nn.Module):
    """One recurrent layer; its convolution is named as in the authors' checkpoints."""

    def __init__(self, in_channels: int, filters: int, *, recurrence: str, bidirectional: bool) -> None:
        super().__init__()
        layer = build_recurrence(recurrence, in_channels, filters, bidirectional=bidirectional)
        self.cell = nn.ModuleDict({"conv": layer})

    def forward(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        """(B, T, C, H, W) -> (B, T, filters, H, W)."""
        return self.cell["conv"](x_BTCHW)


class FrameLayer(nn.Module):
    """A layer that is applied frame by frame, under its name in the authors' checkpoints."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Apply the layer to (N, C, H, W)."""
        return self.layer(x_NCHW)


class ConvLSTMBlock(nn.Module):
    """n recurrent layers of the same width, a norm after each. (B, T, C, H, W) -> (B, T, filters, H, W)."""

    def __init__(
        self, *, in_channels: int, filters: int, layers: int, norm: str, recurrence: str, bidirectional: bool
    ) -> None:
        super().__init__()
        self.conv_lstm_layers = nn.ModuleList()
        for before in [in_channels] + [filters] * (layers - 1):
            recurrent = ConvLSTMLayer(before, filters, recurrence=recurrence, bidirectional=bidirectional)
            self.conv_lstm_layers.extend([recurrent, FrameLayer(build_norm(norm, filters))])

    def forward(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        """Run the layers in turn."""
        for recurrent, normed in zip(self.conv_lstm_layers[::2], self.conv_lstm_layers[1::2], strict=True):
            x_BTCHW = recurrent(x_BTCHW)
            x_BTCHW = normed(x_BTCHW.flatten(0, 1)).view(x_BTCHW.shape)
        return x_BTCHW


class UpsamplingBlock(nn.Module):
    """Nearest upsampling by 2, Conv2d, norm, activation. (N, C, H, W) -> (N, filters, 2H, 2W).

    With a skip connection the convolution also sees the channels of the encoder block of the same resolution,
    after the upsampled ones (Ronneberger et al. 2015, "U-Net").
    """

    def __init__(self, *, in_channels: int, filters: int, norm: str, activation: str) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, filters, KERNEL_SIZE, padding=KERNEL_SIZE // 2)
        self.conv_lstm_layers = nn.ModuleList(
            [
                nn.Upsample(scale_factor=2, mode="nearest"),
                FrameLayer(conv),
                FrameLayer(build_norm(norm, filters)),
            ]
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x_NCHW: torch.Tensor, skip_NCHW: torch.Tensor | None) -> torch.Tensor:
        """One decoder level; ``skip_NCHW`` is (N, C', 2H, 2W), or None without skip connections."""
        upsample, conv, norm = self.conv_lstm_layers
        x_NCHW = upsample(x_NCHW)
        if skip_NCHW is not None:
            x_NCHW = torch.cat([x_NCHW, skip_NCHW.to(x_NCHW.dtype)], dim=1)
        return self.activation(norm(conv(x_NCHW)))


class ConvLSTMStudent(nn.Module):
    """One student of the family.

    Args:
        widths: channels of each of the k encoder blocks; sides must be divisible by 2^(k-1). The authors'
            double from block to block.
        layers: n, recurrent layers per block.
        norm: batch (`SyncedBatchNorm2d`) or group.
        recurrence: one of `recurrences.RECURRENCES`; the authors': convlstm.
        skips: the decoder sees the encoder's features of its resolution; the authors': False.
        activation: one of `ACTIVATIONS`, after each norm of the decoder; the authors': none.
        bidirectional: half of each recurrent layer runs against time; the authors': False. Without it the
            student is causal: no logit depends on a later frame (of one in evaluation mode).
        input_mean: grey level that becomes 0.
        input_std: grey levels that become 1. Both are constants and not in the state dict.
        side: frames are resized until their longer side has so many pixels, and the logits back; 0 resizes nothing.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        layers: int,
        norm: str,
        recurrence: str,
        skips: bool,
        activation: str,
        bidirectional: bool,
        input_mean: float,
        input_std: float,
        side: int = 0,
    ) -> None:
        super().__init__()
        self.input_mean = input_mean
        self.input_std = input_std
        self.widths = tuple(widths)
        self.multiple = 2 ** (len(widths) - 1)
        self.side = side
        self.skips = skips
        self.conv_lstm_blocks = nn.ModuleList(
            ConvLSTMBlock(
                in_channels=before,
                filters=width,
                layers=layers,
                norm=norm,
                recurrence=recurrence,
                bidirectional=bidirectional,
            )
            for before, width in zip([1, *widths], widths, strict=False)
        )
        self.conv_lstm_upsampling = nn.ModuleList(
            UpsamplingBlock(
                in_channels=below + width if skips else below, filters=width, norm=norm, activation=activation
            )
            for width, below in reversed(list(pairwise(widths)))
        )
        self.output_layer = FrameLayer(nn.Conv2d(widths[0], 1, 1))

    def forward(self, video: torch.Tensor) -> StudentOutput:
        """Logits of one class for grey video (B, T, H, W), uint8 or float, 0..255.

        Raises:
            ValueError: H or W is not a multiple of 2^(blocks-1), or the input is not (B, T, H, W).
        """
        if video.ndim != 4:
            raise ValueError(f"a student takes video of shape (B, T, H, W), got {tuple(video.shape)}")
        B, T, H, W = video.shape
        if not self.side and (H % self.multiple or W % self.multiple):
            raise ValueError(
                f"frames of {H} x {W} pixels do not fit a student of {len(self.conv_lstm_blocks)} blocks:"
                f" height and width must be multiples of {self.multiple}"
            )
        logits_NCHW = resize(self.output_layer(self.decode(self.encode(self.fit(video)))), (H, W))
        return StudentOutput(logits_NCHW.unflatten(0, (B, T)))

    def fit(self, video: torch.Tensor) -> torch.Tensor:
        """Video (B, T, H, W), or frames (B, H, W), at the size that `encode` works on."""
        return resize(video, self.working_sides(*video.shape[-2:])) if self.side else video

    def working_sides(self, H: int, W: int) -> tuple[int, int]:
        """Rows and columns of `fit`'s result."""
        return working_sides(H, W, side=self.side, multiple=self.multiple)

    def encode(self, video: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Features (B, T, C, h, w) of the deepest block, for video (B, T, H, W); h = H / 2^(blocks-1).

        With skip connections a tuple: the features of every block, the deepest last.
        """
        B, T = video.shape[:2]
        dtype = next(self.parameters()).dtype
        x = (video.to(dtype) - self.input_mean) / self.input_std
        x = x.unsqueeze(2)
        features: list[torch.Tensor] = []
        for level, block in enumerate(self.conv_lstm_blocks):
            if level:
                x = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, (B, T))
            x = block(x)
            if self.skips:  # otherwise let the memory go
                features.append(x)
        return tuple(features) if self.skips else x

    def decode(self, encoded: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Features (B * T, filters, H, W) for the output layer, from those of `encode`."""
        features = encoded if isinstance(encoded, tuple) else (encoded,)
        *shallower, x = [feature.flatten(0, 1) for feature in features]
        for level in self.conv_lstm_upsampling:
            x = level(x, shallower.pop() if shallower else None)
        return x


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters, of the whole module even if ZeRO stage 3 has sharded it."""
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in module.parameters() if p.requires_grad)
