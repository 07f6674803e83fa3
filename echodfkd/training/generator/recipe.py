"""The recipe of a learned generator: sizes, steps and rates of its two trainings."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.core.errors import ConfigError
from echodfkd.models.generators.latent_networks import SCALE, LatentSpec


@dataclass(frozen=True)
class GeneratorRecipe:
    """The autoencoder is trained on frames of ``clips`` gathered clips, then the velocity field on their latents.

    Both use AdamW at a constant rate after a warm-up, and an average of the weights is kept: a run may end at any step.
    ``average`` is its decay. ``kl`` weighs the autoencoder's prior, ``edges`` the error of differences between
    neighbouring pixels. ``unknown`` is the share of clips whose conditions are hidden. ``strides`` are frames of a
    gathered clip for one of a training clip, drawn at random: one network learns several frame rates. ``motion`` weighs
    the velocity's error within a clip against its mean: of the phantom's latents an eighth of the variance is motion.
    """

    clips: int
    vae_steps: int
    flow_steps: int
    seed: int = 0
    clip_frames: int = 32
    spec: LatentSpec = field(default_factory=LatentSpec)
    vae_batch: int = 32
    flow_batch: int = 8
    vae_rate: float = 1e-3
    flow_rate: float = 1e-3
    warmup_steps: int = 100
    average: float = 0.998
    kl: float = 1e-3
    edges: float = 0.5
    motion: float = 8.0
    unknown: float = 0.1
    strides: tuple[int, ...] = (1, 2)
    precision: str = "bf16"

    def check(self) -> None:
        """Refuse values that cannot be trained with.

        Raises:
            ConfigError: names the option.
        """
        for option, value, least in (
            ("--clips", self.clips, 2),
            ("--vae-steps", self.vae_steps, 1),
            ("--flow-steps", self.flow_steps, 1),
            ("window.frames", self.clip_frames, self.spec.frames),
        ):
            if value < least:
                raise ConfigError(f"{option}: got {value}, must be at least {least}")
        if self.spec.size % (2 * SCALE):
            raise ConfigError(f"window.size: got {self.spec.size}, must be a multiple of {2 * SCALE}")
