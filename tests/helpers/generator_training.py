"""A learned generator trained for tests. Apart from training.py, which must load on a machine that has only torch."""

from __future__ import annotations

from pathlib import Path

from echodfkd.models.generators.latent_video import LatentModel
from echodfkd.sources.clip_source import ClipSource
from echodfkd.training.generator.gathered import GatheredClips, gather_clips
from echodfkd.training.generator.recipe import GeneratorRecipe
from echodfkd.training.generator.run import train_generator
from echodfkd.training.generator.stage import Place


def train_alone(
    folder: Path, source: ClipSource, recipe: GeneratorRecipe, *, place: Place | None = None
) -> tuple[LatentModel, GatheredClips]:
    """A learned generator, trained in this process."""
    clips = gather_clips(source, recipe.clips, (recipe.clip_frames, recipe.spec.size), folder, report=print)
    return train_generator(clips, recipe, place or Place(str(folder))), clips
