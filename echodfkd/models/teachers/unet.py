"""The embedded teacher's network: a small per-frame U-Net (Ronneberger et al., 2015) with group normalisation.

It differs from the paper so as to be cheap on a CPU: 2 x 2 pixels are folded into channels at the input and
unfolded at the output (sub-pixel convolution, Shi et al., 2016), a block is one full and one depthwise-separable
convolution, upsampling is bilinear. Group normalisation keeps frames independent of each other in any batch; a network
may have batch normalisation instead, whose running statistics guide clips to what its training looked like.

Legend: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from importlib import resources

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from echodfkd.core.errors import InputError

PIXEL_MEAN = (35.0,)
"""Grey level (0..255) that the embedded teacher was trained to subtract: rounded mean of phantom clips."""
PIXEL_STD = (43.0,)
"""Grey levels that the embedded teacher was trained to divide by: rounded deviation of phantom clips."""
EMBEDDED_CHANNELS = (24, 48, 96)
"""Channels of the shipped network at 1/2, 1/4 and 1/8 of the frame's resolution."""

LARGEST_WIDTH, LARGEST_DEPTH = 512, 6
"""Limits of a network that is built from a file: its tensors' shapes are not trusted with more memory."""

SHIPPED_WEIGHTS = {
    "embedded": "embedded_teacher.safetensors",
    "embedded_chambers": "embedded_chambers_teacher.safetensors",
    "embedded_wild": "embedded_wild_teacher.safetensors",
}
"""File of the shipped weights by kind of teacher: the left ventricle, all of `CHAMBER_NAMES`, and these again from the
phantom's domain `wild`."""


class EmbeddedTeacherNet(nn.Module):
    """U-Net: normalised grey frames -> logits of the left ventricle, or of several classes.

    Args:
        channels: channels per level, fine to coarse, each a multiple of 8. Each level halves H and W.
        num_classes: logits per pixel, independent of each other (a sigmoid each).
        batch_norm: batch normalisation in place of group normalisation.
    """

    def __init__(
        self, *, channels: tuple[int, ...] = EMBEDDED_CHANNELS, num_classes: int = 1, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if len(channels) < 2 or any(width < 8 or width % 8 for width in channels):
            raise ValueError(f"channels: got {channels}, expected at least two levels, each a multiple of 8")
        self.channels = channels
        self.multiple = 2 ** min(len(channels), 3)  # deeper levels round odd sizes up
        self.down = nn.ModuleList(
            _Block(fan_in, fan_out, batch_norm) for fan_in, fan_out in zip((4, *channels[:-1]), channels, strict=True)
        )
        self.up = nn.ModuleList(
            _Block(coarse + fine, fine, batch_norm)
            for coarse, fine in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.bottom = _Block(channels[-1], channels[-1], batch_norm)
        self.head = nn.Conv2d(channels[0], 4 * num_classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes, H, W) of frames (N, 1, H, W).

        Raises:
            ValueError: the input is not (N, 1, H, W).
            InputError: H or W is not divisible by `multiple`.
        """
        if x.dim() != 4 or x.shape[1] != 1:
            raise ValueError(f"the embedded teacher takes frames of shape (N, 1, H, W), got {tuple(x.shape)}")
        H, W = x.shape[-2:]
        if H % self.multiple or W % self.multiple:
            raise InputError(
                f"window.size: the embedded teacher needs H and W divisible by {self.multiple}, got {H} x {W}"
            )
        x = F.pixel_unshuffle(x, 2)
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
            skips.append(x)
        x = self.bottom(skips.pop())
        for block in self.up:
            skip = skips.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat([x, skip], dim=1))
        return F.pixel_shuffle(self.head(x), 2)


class _Block(nn.Module):
    """A full 3 x 3 convolution, then a depthwise 3 x 3 and a 1 x 1, each normalised and rectified."""

    def __init__(self, fan_in: int, fan_out: int, batch_norm: bool) -> None:
        super().__init__()
        self.full = nn.Conv2d(fan_in, fan_out, kernel_size=3, padding=1, bias=False)
        self.full_norm = nn.BatchNorm2d(fan_out) if batch_norm else nn.GroupNorm(fan_out // 8, fan_out)
        self.depthwise = nn.Conv2d(fan_out, fan_out, kernel_size=3, padding=1, groups=fan_out, bias=False)
        self.pointwise = nn.Conv2d(fan_out, fan_out, kernel_size=1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(fan_out) if batch_norm else nn.GroupNorm(fan_out // 8, fan_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.full_norm(self.full(x)))
        return F.relu(self.pointwise_norm(self.pointwise(self.depthwise(x))))


def load_embedded_teacher(path: str | None, *, num_classes: int = 1, shipped: str = "") -> EmbeddedTeacherNet:
    """Load the embedded teacher, in eval mode.

    Args:
        path: a safetensors file of the same architecture, in any channels and with either normalisation; None takes the
            shipped weights.
        num_classes: 1 (the left ventricle) or 5 (`echodfkd.core.records.CHAMBER_NAMES` after the background).
        shipped: which of `SHIPPED_WEIGHTS` if there is no path; "" takes the first of so many classes.

    Raises:
        InputError: the file cannot be read, or holds another architecture.
    """
    name = (
        path
        if path is not None
        else SHIPPED_WEIGHTS[shipped or ("embedded" if num_classes == 1 else "embedded_chambers")]
    )
    try:
        if path is None:
            data = resources.files("echodfkd").joinpath("weights", name).read_bytes()
        else:
            with open(path, "rb") as file:
                data = file.read()
        state = load(data)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise InputError(f"teacher.weights: {name} cannot be read as a safetensors file: {error}") from error
    batch_norm = any(key.endswith("norm.running_mean") for key in state)
    network = EmbeddedTeacherNet(channels=_channels_of(state), num_classes=num_classes, batch_norm=batch_norm)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if found != expected:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise InputError(
            f"teacher.weights: {name} is not an embedded teacher: {len(wrong)} tensors differ from its architecture,"
            f" first {wrong[0]} (expected {expected.get(wrong[0], 'none')}, got {found.get(wrong[0], 'none')})"
        )
    network.load_state_dict(state)
    return network.eval()


def _channels_of(state: dict[str, torch.Tensor]) -> tuple[int, ...]:
    """Channels of the network that a file holds; the shipped ones if it does not look like one."""
    found: list[int] = []
    while (weight := state.get(f"down.{len(found)}.full.weight")) is not None:
        if weight.dim() != 4 or not 8 <= len(weight) <= LARGEST_WIDTH or len(weight) % 8:
            return EMBEDDED_CHANNELS
        found.append(len(weight))
    return tuple(found) if 2 <= len(found) <= LARGEST_DEPTH else EMBEDDED_CHANNELS
