"""A published image autoencoder: frames to latents and back, some frames at a time.

Legend: N frames, B clips, T frames of a clip, C channels, H rows, W columns, h and w those of a latent.
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
        statistics: mean and standard deviation of each latent channel, which then replace that scaling.
    """

    def __init__(
        self, network: Any, device: str, *, statistics: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        self.network = network.to(device)
        self.device = torch.device(device)
        self.channels = int(network.config.latent_channels)
        self.shrink = 2 ** (len(network.config.block_out_channels) - 1)
        C = self.channels
        mean, std = statistics or (torch.zeros(C), torch.full((C,), 1 / float(network.config.scaling_factor)))
        self.mean, self.std = (values.view(1, -1, 1, 1).to(self.device) for values in (mean, std))

    @torch.inference_mode()
    def encode(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w), the mean of their distribution, of grey frames (N, H, W), 0..255."""
        parts = []
        for frames in frames_NHW.split(FRAMES_AT_ONCE):
            x = frames.to(self.device).float()[:, None] / 128 - 1
            x = x.expand(-1, self.network.config.in_channels, -1, -1)
            parts.append((self.network.encode(x).latent_dist.mode() - self.mean) / self.std)
        return torch.cat(parts)

    @torch.inference_mode()
    def decode(self, latents_NChw: torch.Tensor) -> torch.Tensor:
        """Grey levels (N, H, W), 0..256 and beyond, on the CPU: the mean over the decoder's channels."""
        parts = []
        for latents in latents_NChw.split(FRAMES_AT_ONCE):
            frames = self.network.decode(latents.to(self.device).float() * self.std + self.mean).sample
            parts.append(((frames.mean(dim=1) + 1) * 128).cpu())
        return torch.cat(parts)

    def decode_clips(self, latents_BCThw: torch.Tensor) -> list[torch.Tensor]:
        """Grey levels (T, H, W) of each clip, likewise."""
        B, _, T = latents_BCThw.shape[:3]
        return list(self.decode(latents_BCThw.transpose(1, 2).flatten(0, 1)).unflatten(0, (B, T)))
