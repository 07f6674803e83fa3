"""The training of a learned generator from a source of clips to a file of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from echodfkd.models.generators.latent_networks import FrameVAE, VelocityNet
from echodfkd.models.generators.latent_video import LatentModel
from echodfkd.sources.clip_source import ClipSource
from echodfkd.training.generator.gathered import GatheredClips, gather_clips
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.generator.stages import encode_clips, latent_statistics, train_flow, train_vae
from echodfkd.training.teacher.embedded import prepare_folder
from echodfkd.training.teacher.keeper import Keeper


def train_generator(
    source: ClipSource, recipe: GeneratorRecipe, folder: Path, *, report: Callable[[str], None]
) -> tuple[LatentModel, GatheredClips]:
    """Gather clips, train the autoencoder, encode, train the velocity field; each part goes on after a stop.

    Args:
        source: of the training clips, of ``recipe.clip_frames`` frames.
        recipe: see `GeneratorRecipe`.
        folder: keeps the clips, the latents and the state of both trainings.
        report: takes lines of progress.

    Returns:
        The averages of the weights, and the clips that they were trained on.

    Raises:
        ConfigError: the recipe cannot be used.
        InputError: the folder is of another run, or most of the source's clips fail.
        RunError: a loss is not finite.
    """
    recipe.check()
    prepare_folder(folder, "--resume")
    clips = gather_clips(source, recipe.clips, (recipe.clip_frames, recipe.spec.size), folder, report=report)
    torch.manual_seed(recipe.seed)
    vae, flow = FrameVAE(recipe.spec), VelocityNet(recipe.spec)
    train_vae(vae, clips, recipe, keeper=_keeper(folder / "vae", recipe, "vae_steps", "flow_steps"), report=report)
    latents = encode_clips(vae, clips, folder / f"latents-{recipe.vae_steps}.raw", report=report)
    train_flow(flow, latents, clips, recipe, keeper=_keeper(folder / "flow", recipe, "flow_steps"), report=report)
    return LatentModel(recipe.spec, vae, flow, *latent_statistics(latents)), clips


def _keeper(folder: Path, recipe: GeneratorRecipe, *free: str) -> Keeper:
    """Of one training; ``free`` are the settings that may change when it goes on, as its own number of steps may."""
    prepare_folder(folder, "--resume")
    known: dict[str, Any] = {name: value for name, value in asdict(recipe).items() if name not in free}
    return Keeper(folder, known)
