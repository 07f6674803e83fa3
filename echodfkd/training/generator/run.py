"""The training of a learned generator from gathered clips to its networks."""

from __future__ import annotations

from pathlib import Path

import torch

from echodfkd.models.generators.latent_networks import FrameVAE, VelocityNet
from echodfkd.models.generators.latent_video import LatentModel
from echodfkd.training.collectives import gather_texts
from echodfkd.training.generator.gathered import GatheredClips
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.generator.stage import Place, train_stage
from echodfkd.training.generator.stages import encode_clips, flow_stage, latent_statistics, vae_stage


def train_generator(clips: GatheredClips, recipe: GeneratorRecipe, place: Place) -> LatentModel:
    """Train the autoencoder, encode, train the velocity field; each part goes on after a stop.

    Every worker of the group calls it. One of them encodes.

    Args:
        clips: gathered in ``place.folder``, which all workers see.
        recipe: see `GeneratorRecipe`.
        place: of this worker.

    Returns:
        The averages of the weights.

    Raises:
        ConfigError: the recipe cannot be used.
        InputError: the folder is of another run.
        RunError: a loss is not finite.
    """
    recipe.check()
    torch.manual_seed(recipe.seed)
    vae, flow = FrameVAE(recipe.spec), VelocityNet(recipe.spec)
    train_stage(vae_stage(vae, clips, recipe), recipe, place)
    vae.to("cpu")
    path = Path(place.folder) / f"latents-{recipe.vae_steps}.raw"
    if place.rank == 0:
        encode_clips(vae, clips, path, report=place.report)
    gather_texts("")  # the others wait
    latents = encode_clips(vae, clips, path, report=place.report)
    train_stage(flow_stage(flow, latents, clips, recipe), recipe, place)
    return LatentModel(recipe.spec, vae, flow.to("cpu"), *latent_statistics(latents))
