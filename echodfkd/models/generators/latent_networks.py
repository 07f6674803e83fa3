"""The networks of the learned generator: a variational autoencoder of frames, and a velocity field of latent videos.

Both are made for two CPU cores. The autoencoder (Kingma and Welling 2014) works on patches of 4 x 4 pixels, so that no
convolution runs at full size; a latent has 1/8 of a frame's side. The velocity field is a transformer over all patches
of two frames and 2 x 2 latent pixels (DiT, Peebles and Xie 2023); a patch's place in time is given in seconds, so that
one network makes clips of several frame rates.

Legend: N frames, B clips, T frames of a clip, C latent channels, H rows, W columns, h and w those of a latent,
P patches of a latent, K conditions, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import InputError
from echodfkd.core.records import Conditions

UNSHUFFLE = 4
"""Side of the patches that a frame is folded into."""
SCALE = 8
"""Pixels of a frame's side for one of its latent's side."""
CONDITIONS = ("ef_percent", "edv_ml", "heart_rate_bpm", "image_quality")
"""Conditions that a clip is made under."""
_CENTRE = torch.tensor([50.0, 90.0, 70.0, 0.5])
_SPREAD = torch.tensor([20.0, 45.0, 15.0, 0.3])


@dataclass(frozen=True)
class LatentSpec:
    """Sizes of both networks, as they stand in a file of weights."""

    size: int = 64
    """Side of the frames in pixels."""
    frames: int = 16
    """Frames of a training clip: the velocity field sees as many at once."""
    latent_channels: int = 4
    vae_width: int = 48
    width: int = 160
    depth: int = 6
    heads: int = 5
    shared: float = 0.9
    """Share of the noise's variance that all frames of a clip have in common (Ge et al. 2023). Of the phantom's latents
    0.88 is constant over a clip: so it begins as one picture, and the network only has to move it."""
    fps_low: float = 16.0
    """Frame rates that it was trained on, from here"""
    fps_high: float = 32.0
    """to here."""

    def check(self, where: str) -> None:
        """Raise `InputError` for sizes that no network can have."""
        if not 0.0 <= self.shared < 1.0:
            raise InputError(f"{where}: shared is {self.shared:g}, must be at least 0 and below 1")
        if (
            self.size % (2 * SCALE)
            or self.frames % 2
            or self.width % self.heads
            or self.vae_width % 8
            or self.fps_low > self.fps_high
        ):
            raise InputError(
                f"{where}: size must be a multiple of {2 * SCALE}, frames of 2, vae_width of 8, width of heads, and"
                f" fps_low at most fps_high; got size {self.size}, frames {self.frames}, vae_width {self.vae_width},"
                f" width {self.width}, heads {self.heads}, fps_low {self.fps_low:g}, fps_high {self.fps_high:g}"
            )


class FrameVAE(nn.Module):
    """Grey frames in -1..1 to the mean and log-variance of a latent, and back."""

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self.latent_channels = spec.latent_channels
        fine, coarse, folded = spec.vae_width, 2 * spec.vae_width, UNSHUFFLE**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(UNSHUFFLE),
            _conv(folded, fine),
            _Residual(fine),
            _conv(fine, coarse, stride=2),
            _Residual(coarse),
            _Residual(coarse),
            _conv(coarse, 2 * spec.latent_channels),
        )
        self.decoder = nn.Sequential(
            _conv(spec.latent_channels, coarse),
            _Residual(coarse),
            _Residual(coarse),
            _conv(coarse, 4 * fine),
            nn.PixelShuffle(2),
            _Residual(fine),
            _Residual(fine),
            _conv(fine, folded),
            nn.PixelShuffle(UNSHUFFLE),
        )

    def encode(self, frames_N1HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance (N, C, h, w)."""
        mean, log_variance = self.encoder(frames_N1HW).chunk(2, dim=1)
        return mean, log_variance.clamp(-12.0, 4.0)

    def decode(self, latents_NChw: torch.Tensor) -> torch.Tensor:
        """Frames (N, 1, H, W), about -1..1."""
        return self.decoder(latents_NChw)


class VelocityNet(nn.Module):
    """The velocity of a noisy latent video at a time of the flow, under conditions. NaN is a condition not given."""

    def __init__(self, spec: LatentSpec) -> None:
        super().__init__()
        self._channels, width = spec.latent_channels, spec.width
        side = spec.size // SCALE // 2
        self.patch = nn.Conv3d(spec.latent_channels, width, 2, stride=2)
        self.place = nn.Parameter(torch.randn(side * side, width) * 0.02)
        self.moment = nn.Linear(_WAVES, width)
        self.clock = nn.Sequential(nn.Linear(_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.wishes = nn.Sequential(nn.Linear(2 * len(CONDITIONS), width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(_Block(width, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 8 * spec.latent_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, latents_BTChw: torch.Tensor, time_B: torch.Tensor, seconds_BT: torch.Tensor, wishes_BK: torch.Tensor
    ) -> torch.Tensor:
        """Velocity, shaped as the latents; T is even. ``time`` is 0 (data) .. 1 (noise), ``seconds`` the frames'."""
        B, T, C, h, w = latents_BTChw.shape
        tokens = self.patch(latents_BTChw.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)
        tokens = tokens + self.place + self.moment(_waves(seconds_BT[:, ::2], 0.1, 4.0))[:, :, None]
        known = wishes_BK.isfinite()
        wishes = torch.where(known, (wishes_BK - _CENTRE.to(wishes_BK)) / _SPREAD.to(wishes_BK), 0.0)
        context = self.clock(_waves(time_B, 0.02, 2.0)) + self.wishes(torch.cat([wishes, known.to(wishes)], dim=1))
        changes = self.modulation(F.silu(context)).unflatten(1, (6, -1))[:, :, None]
        x = tokens.flatten(1, 2)
        for block in self.blocks:
            x = block(x, changes)
        patches = self.out(self.norm(x)).view(B, T // 2, h // 2, w // 2, 2, C, 2, 2)
        return patches.permute(0, 1, 4, 5, 2, 6, 3, 7).reshape(B, T, C, h, w)


def wishes_of(conditions: Conditions) -> list[float]:
    """The row of a clip's `CONDITIONS`; NaN for one that is not known."""
    values = (getattr(conditions, name) for name in CONDITIONS)
    return [math.nan if value is None else float(value) for value in values]


def clip_noise(shape: tuple[int, ...], shared: float, generator: torch.Generator) -> torch.Tensor:
    """Noise of one clip (T, C, h, w) of variance 1, of which ``shared`` is the same in all frames."""
    own, common = torch.randn(shape, generator=generator), torch.randn(shape[1:], generator=generator)
    return math.sqrt(1.0 - shared) * own + math.sqrt(shared) * common


_WAVES = 32


def _waves(value: torch.Tensor, shortest: float, longest: float) -> torch.Tensor:
    """Sines and cosines of wave lengths from shortest to longest, (..., 32)."""
    lengths = torch.logspace(math.log10(shortest), math.log10(longest), _WAVES // 2, device=value.device)
    angle = 2 * math.pi * value[..., None] / lengths
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            _conv(width, width),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            _conv(width, width),
        )

    def forward(self, x_NDHW: torch.Tensor) -> torch.Tensor:
        return x_NDHW + self.body(x_NDHW)


class _Block(nn.Module):
    """Attention and a two-layer network, each scaled, shifted and gated by the context and by the block's own values
    (adaLN-single, Chen et al. 2024).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.own = nn.Parameter(torch.randn(6, 1, width) * 0.02)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x_BND: torch.Tensor, changes_B61D: torch.Tensor) -> torch.Tensor:
        shift, scale, gate, shift2, scale2, gate2 = (changes_B61D + self.own).unbind(1)
        B, N, D = x_BND.shape
        qkv = self.to_qkv(self.norm(x_BND) * (1 + scale) + shift).view(B, N, 3, self._heads, D // self._heads)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4).unbind(0))
        x = x_BND + (1 + gate) * self.merge(mixed.transpose(1, 2).reshape(B, N, D))
        return x + (1 + gate2) * self.mlp(self.norm(x) * (1 + scale2) + shift2)
