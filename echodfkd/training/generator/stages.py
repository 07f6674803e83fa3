"""The two trainings of a learned generator: autoencoder of frames, then flow matching on their latents.

The velocity field learns v = noise - data along x(t) = (1 - t) data + t noise (rectified flow, Liu et al. 2023), with t
drawn from a logistic-normal distribution (Esser et al. 2024).

Legend: N frames, B clips, L frames of a gathered clip, T of a training clip, C latent channels, h and w of a latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from echodfkd.core.counter import Counter
from echodfkd.core.redaction import dump_json
from echodfkd.models.generators.latent_networks import SCALE, FrameVAE, VelocityNet, clip_noise
from echodfkd.storage.files import RunStorage
from echodfkd.training.generator.gathered import GatheredClips, raw_array
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.generator.stage import Stage

Report = Callable[[str], None]


class VaeLoss(nn.Module):
    """Absolute error of pixels, and of differences between neighbours, plus the weighted prior.

    Its inputs are frames (N, 1, H, W) and noise (N, C, h, w).
    """

    def __init__(self, network: FrameVAE, recipe: GeneratorRecipe) -> None:
        super().__init__()
        self.network, self._recipe = network, recipe

    def forward(self, frames_N1HW: torch.Tensor, noise_NChw: torch.Tensor) -> torch.Tensor:
        """The loss, a mean over the frames."""
        mean, log_variance = self.network.encode(frames_N1HW)
        made = self.network.decode(mean + (0.5 * log_variance).exp() * noise_NChw)
        wrong, mean, log_variance = made.float() - frames_N1HW, mean.float(), log_variance.float()
        edges = wrong.diff(dim=-1).abs().mean() + wrong.diff(dim=-2).abs().mean()
        prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return wrong.abs().mean() + self._recipe.edges * edges + self._recipe.kl * prior


class FlowLoss(nn.Module):
    """Squared error of the velocity, between data and noise (B, T, C, h, w) at a time (B,) of each clip.

    The part of the error that changes within a clip counts ``motion`` times. The best velocity is the same for any
    weight; at weight 1 a network learns what a heart looks like long before it learns that it beats.
    """

    def __init__(self, network: VelocityNet, motion: float) -> None:
        super().__init__()
        self.network, self._motion = network, motion

    def forward(
        self,
        data: torch.Tensor,
        noise: torch.Tensor,
        time_B: torch.Tensor,
        seconds_BT: torch.Tensor,
        wishes_BK: torch.Tensor,
    ) -> torch.Tensor:
        """The loss, a mean over the clips."""
        share = time_B.view(-1, 1, 1, 1, 1)
        velocity = self.network((1 - share) * data + share * noise, time_B, seconds_BT, wishes_BK)
        wrong = velocity.float() - (noise - data)
        moving = wrong - wrong.mean(1, keepdim=True)
        return wrong.square().mean() + (self._motion - 1.0) * moving.square().mean()


def vae_stage(vae: FrameVAE, clips: GatheredClips, recipe: GeneratorRecipe) -> Stage:
    """The training of the autoencoder, on single frames."""

    def inputs(rng: np.random.Generator, own: slice) -> tuple[torch.Tensor, ...]:
        rows = rng.integers(len(clips.video), size=recipe.vae_batch)[own]
        times = rng.integers(clips.video.shape[1], size=recipe.vae_batch)[own]
        noise = torch.randn((recipe.vae_batch, *_latent_shape(recipe)), generator=_generator(rng))
        return to_network(clips.video[rows, times]), noise[own]

    return Stage("vae", VaeLoss(vae, recipe), inputs, recipe.vae_steps, recipe.vae_rate, recipe.vae_batch)


@torch.inference_mode()
def encode_clips(vae: FrameVAE, clips: GatheredClips, path: Path, *, report: Report) -> np.ndarray:
    """Mean latents of all frames, float16 (N, L, C, h, w), kept at ``path``; a whole file, which has a note beside it,
    is read again.
    """
    frames = clips.video
    side, channels = frames.shape[-1] // SCALE, vae.latent_channels
    shape = (*frames.shape[:2], channels, side, side)
    latents, storage, note = raw_array(path, shape, torch.float16), RunStorage(str(path.parent)), f"{path.stem}.json"
    if not storage.exists(note):
        with Counter("encoded clips", len(frames), report) as counter:
            for row, video in enumerate(frames):
                latents[row] = vae.encode(to_network(video))[0].numpy()
                counter.show(row + 1)
        storage.write(note, dump_json({"clips": len(frames)}))
    return latents


def latent_statistics(latents_NLChw: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (C,) of each channel."""
    values = latents_NLChw.astype(np.float64)
    axes = (0, 1, 3, 4)
    return torch.from_numpy(values.mean(axes)).float(), torch.from_numpy(values.std(axes)).float()


def flow_stage(network: VelocityNet, latents_NLChw: np.ndarray, clips: GatheredClips, recipe: GeneratorRecipe) -> Stage:
    """The training of the velocity field, on crops of the gathered clips."""
    mean, std = (value.view(-1, 1, 1) for value in latent_statistics(latents_NLChw))
    T, B = recipe.spec.frames, recipe.flow_batch
    allowed = [stride for stride in recipe.strides if (T - 1) * stride < recipe.clip_frames]

    def inputs(rng: np.random.Generator, own: slice) -> tuple[torch.Tensor, ...]:
        rows, strides = rng.integers(len(latents_NLChw), size=B)[own], rng.choice(allowed, size=B)
        starts = [int(rng.integers(recipe.clip_frames - (T - 1) * stride)) for stride in strides]
        picked = [
            latents_NLChw[row, start : start + (T - 1) * stride + 1 : stride]
            for row, start, stride in zip(rows, starts[own], strides[own], strict=True)
        ]
        data = (torch.from_numpy(np.stack(picked)).float() - mean) / std
        seconds = torch.arange(T) * torch.from_numpy(strides[own] / clips.fps[rows]).float()[:, None]
        hidden = torch.from_numpy(rng.random((B, 1))[own] < recipe.unknown)
        wishes = torch.where(hidden, math.nan, torch.from_numpy(clips.wishes[rows]))
        moment = torch.from_numpy(rng.normal(size=B)[own]).float().sigmoid()
        noise = torch.stack([clip_noise(data.shape[1:], recipe.spec.shared, _generator(rng)) for _ in range(B)])
        return data, noise[own], moment, seconds, wishes

    return Stage("flow", FlowLoss(network, recipe.motion), inputs, recipe.flow_steps, recipe.flow_rate, B)


def to_network(frames: np.ndarray) -> torch.Tensor:
    """uint8 (..., H, W) to float (N, 1, H, W) in -1..1."""
    return torch.from_numpy(np.array(frames)).float().flatten(0, -3)[:, None] / 127.5 - 1.0


def _latent_shape(recipe: GeneratorRecipe) -> tuple[int, int, int]:
    side = recipe.spec.size // SCALE
    return recipe.spec.latent_channels, side, side


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
