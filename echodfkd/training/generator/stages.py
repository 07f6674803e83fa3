"""The two trainings of a learned generator: autoencoder of frames, then flow matching on their latents.

The velocity field learns v = noise - data along x(t) = (1 - t) data + t noise (rectified flow, Liu et al. 2023), with t
drawn from a logistic-normal distribution (Esser et al. 2024). All that a step draws comes from the state's generator,
so that a resumed run takes the same steps.

Legend: N frames, B clips, L frames of a gathered clip, T of a training clip, C latent channels, h and w of a latent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from echodfkd.core.counter import Counter
from echodfkd.core.errors import RunError
from echodfkd.core.redaction import dump_json
from echodfkd.models.generators.latent_networks import SCALE, FrameVAE, VelocityNet, clip_noise
from echodfkd.storage.files import RunStorage
from echodfkd.training.generator.gathered import GatheredClips, raw_array
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.teacher.keeper import Keeper, TrainingState

Report = Callable[[str], None]


def train_vae(
    vae: FrameVAE, clips: GatheredClips, recipe: GeneratorRecipe, *, keeper: Keeper | None, report: Report
) -> FrameVAE:
    """Train in place on single frames; returns the average of the weights."""

    def loss_of(state: TrainingState) -> torch.Tensor:
        rows = state.rng.integers(len(clips.video), size=recipe.vae_batch)
        times = state.rng.integers(clips.video.shape[1], size=recipe.vae_batch)
        frames = to_network(clips.video[rows, times])
        noise = torch.randn((recipe.vae_batch, *_latent_shape(recipe)), generator=_generator(state.rng))
        return vae_loss(vae, frames, noise, recipe)

    _train(vae, loss_of, (recipe.vae_steps, recipe.vae_rate), recipe, keeper=keeper, report=report)
    return vae


def vae_loss(
    vae: FrameVAE, frames_N1HW: torch.Tensor, noise_NChw: torch.Tensor, recipe: GeneratorRecipe
) -> torch.Tensor:
    """Absolute error of pixels, and of differences between neighbours, plus the weighted prior."""
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        mean, log_variance = vae.encode(frames_N1HW)
        made = vae.decode(mean + (0.5 * log_variance).exp() * noise_NChw)
    wrong, mean, log_variance = made.float() - frames_N1HW, mean.float(), log_variance.float()
    edges = wrong.diff(dim=-1).abs().mean() + wrong.diff(dim=-2).abs().mean()
    prior = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return wrong.abs().mean() + recipe.edges * edges + recipe.kl * prior


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


def train_flow(
    network: VelocityNet,
    latents_NLChw: np.ndarray,
    clips: GatheredClips,
    recipe: GeneratorRecipe,
    *,
    keeper: Keeper | None,
    report: Report,
) -> VelocityNet:
    """Train in place on crops of the gathered clips; returns the average of the weights."""
    mean, std = (value.view(-1, 1, 1) for value in latent_statistics(latents_NLChw))
    T, B = recipe.spec.frames, recipe.flow_batch

    def loss_of(state: TrainingState) -> torch.Tensor:
        rng = state.rng
        rows = rng.integers(len(latents_NLChw), size=B)
        strides = rng.choice([s for s in recipe.strides if (T - 1) * s < recipe.clip_frames], size=B)
        starts = [int(rng.integers(recipe.clip_frames - (T - 1) * stride)) for stride in strides]
        picked = [
            latents_NLChw[row, start : start + (T - 1) * stride + 1 : stride]
            for row, start, stride in zip(rows, starts, strides, strict=True)
        ]
        data = (torch.from_numpy(np.stack(picked)).float() - mean) / std
        seconds = torch.arange(T) * torch.from_numpy(strides / clips.fps[rows]).float()[:, None]
        wishes = torch.from_numpy(clips.wishes[rows])
        wishes = torch.where(torch.from_numpy(rng.random((B, 1)) < recipe.unknown), math.nan, wishes)
        moment = torch.from_numpy(rng.normal(size=B)).float().sigmoid()
        noise = torch.stack([clip_noise(data.shape[1:], recipe.spec.shared, _generator(rng)) for _ in range(B)])
        return flow_loss(network, data, noise, moment, seconds, wishes, recipe.precision)

    _train(network, loss_of, (recipe.flow_steps, recipe.flow_rate), recipe, keeper=keeper, report=report)
    return network


def flow_loss(
    network: VelocityNet,
    data: torch.Tensor,
    noise: torch.Tensor,
    time_B: torch.Tensor,
    seconds_BT: torch.Tensor,
    wishes_BK: torch.Tensor,
    precision: str,
) -> torch.Tensor:
    """Mean squared error of the velocity."""
    share = time_B.view(-1, 1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        velocity = network((1 - share) * data + share * noise, time_B, seconds_BT, wishes_BK)
    return F.mse_loss(velocity.float(), noise - data)


def to_network(frames: np.ndarray) -> torch.Tensor:
    """uint8 (..., H, W) to float (N, 1, H, W) in -1..1."""
    return torch.from_numpy(np.array(frames)).float().flatten(0, -3)[:, None] / 127.5 - 1.0


def _train(
    network: nn.Module,
    loss_of: Callable[[TrainingState], torch.Tensor],
    schedule: tuple[int, float],
    recipe: GeneratorRecipe,
    *,
    keeper: Keeper | None,
    report: Report,
) -> None:
    steps, rate = schedule
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))
    state = TrainingState(network, optimizer, average, np.random.default_rng([recipe.seed, 1]))
    if keeper is not None:
        keeper.load(state)
    start = time.monotonic() - state.seconds
    network.train()
    with Counter(f"steps of {type(network).__name__}", steps, report, done=state.step) as counter:
        while state.step < steps:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (state.step + 1) / max(1, recipe.warmup_steps))
            loss = loss_of(state)
            if not torch.isfinite(loss):
                raise RunError(f"the loss is {loss.item()} at step {state.step}; lower the learning rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(network)
            state.step, state.seconds = state.step + 1, time.monotonic() - start
            state.mean_loss = (
                loss.item() if math.isnan(state.mean_loss) else 0.98 * state.mean_loss + 0.02 * loss.item()
            )
            counter.show(state.step, f"loss {state.mean_loss:.4f}")
            if keeper is not None and (keeper.is_due(state) or state.step == steps):
                keeper.save(state)
    network.load_state_dict(average.module.state_dict())
    network.eval()


def _latent_shape(recipe: GeneratorRecipe) -> tuple[int, int, int]:
    side = recipe.spec.size // SCALE
    return recipe.spec.latent_channels, side, side


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
