"""A published image autoencoder: frames to latents and back, some frames at a time.

Legend: N frames, C channels, H rows, W columns, h and w those of a latent.
"""

from __future__ import annotations

from typing import Any

import torch

FRAMES_AT_ONCE = 16
"""Frames in one pass: a frame of 112 x 112 needs some 60 MB on the way through the published decoder."""


class FrameAutoencoder:
    """diffusers' ``AutoencoderKL``, with the scaling of latents that its folder names.

    Args:
        network: the autoencoder; it keeps float32, since half precision shows in the frames.
        device: torch device.
        mean: of latents that were normalised besides, per channel; None if they were not.
        std: likewise.
    """

    def __init__(
        self, network: Any, device: str, *, mean: torch.Tensor | None = None, std: torch.Tensor | None = None
    ) -> None:
        self.network = network.to(device)
        self.device = torch.device(device)
        self.scaling = float(network.config.scaling_factor)
        self.channels = int(network.config.latent_channels)
        self.shrink = 2 ** (len(network.config.block_out_channels) - 1)
        self._mean, self._std = mean, std

    @torch.inference_mode()
    def encode(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w), the mean of their distribution, of grey frames (N, H, W), 0..255."""
        parts = []
        for frames in frames_NHW.split(FRAMES_AT_ONCE):
            x = frames.to(self.device).float()[:, None] / 128 - 1
            x = x.expand(-1, self.network.config.in_channels, -1, -1)
            parts.append(self.network.encode(x).latent_dist.mode() * self.scaling)
        latents = torch.cat(parts)
        if self._mean is None or self._std is None:
            return latents
        return (latents - _along(self._mean, latents)) / _along(self._std, latents)

    @torch.inference_mode()
    def decode(self, latents_NChw: torch.Tensor) -> torch.Tensor:
        """Grey levels (N, H, W), 0..256 and beyond, on the CPU: the mean over the decoder's channels."""
        parts = []
        for latents in latents_NChw.split(FRAMES_AT_ONCE):
            x = latents.to(self.device).float()
            if self._mean is not None and self._std is not None:
                x = x * _along(self._std, x) + _along(self._mean, x)
            frames = self.network.decode(x / self.scaling).sample
            parts.append(((frames.mean(dim=1) + 1) * 128).cpu())
        return torch.cat(parts)


def _along(values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return values.to(latents).view(1, -1, 1, 1)
