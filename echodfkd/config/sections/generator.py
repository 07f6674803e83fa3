"""Options of a source's `generator`: its files, its sampler, and its actor pool (docs/how-to/generators.md)."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import option
from echodfkd.config.sections.pool import PoolConfig

GENERATORS: dict[str, tuple[str, ...]] = {
    "echonet_synthetic": ("weights", "scheduler", "steps", "precision", "compile"),
    "echoflow": ("weights", "scheduler", "steps", "precision", "compile"),
    "echolvfm": ("weights", "scheduler", "steps", "precision", "compile"),
    "free_echo": ("weights", "steps", "precision", "compile"),
    "diffecho": ("weights", "scheduler", "steps", "guidance", "precision", "compile"),
    "latent_video": ("weights", "steps", "guidance", "precision", "compile"),
    "painted": ("weights",),
    "noise": (),
    "guided": ("weights", "steps"),
    "adversarial": (),
}
"""Kinds of a source that a generator makes -> options of the model and its `compile` that each kind
reads."""
SHIPPED = ("latent_video",)
"""Those that have weights in this package, and so need no file."""

PAINTER = "painter"
"""Folder of a checkpoint in which the painter of an adversarial source lies, beside those of the students."""

SCHEDULERS = ("", "ddpm", "ddim", "dpm_solver", "unipc", "flow_euler")


@dataclass(frozen=True)
class GeneratorModelConfig:
    """The model. A setting that is left empty or 0 is the kind's own."""

    weights: str = option("", path="input", identity=False)  # known by the next one
    """File or folder of its published files; empty takes shipped weights, if the kind has any."""
    sha256: str = option("", pattern="([0-9a-f]{64})?", expected="64 hexadecimal digits")
    """Of those files, in the order of their names; filled in when the config is loaded, so that a run knows its
    generator by content."""
    scheduler: str = option("", choices=SCHEDULERS)
    """Sampler of the noise schedule."""
    steps: int = option(0, least=0, ceiling=10_000)
    """Calls of the sampler for one clip, or, if guided, noise clips to choose from; 0 takes the published number."""
    guidance: float = option(0.0, least=0, ceiling=1000)
    """Weight of classifier-free guidance; 0 takes the kind's own, 1 is without."""
    precision: str = option("fp32", choices=("fp32", "bf16"))
    """fp32, or bf16: faster, with other clips."""


@dataclass(frozen=True)
class GeneratorConfig(PoolConfig, GeneratorModelConfig):
    """The generator that makes a source's clips, and the actor pool that runs it."""

    batch: int = option(1, least=1, ceiling=4096, identity=False)
    """Clips in one pass on the device, whatever the students' batch is. 1 fixes every bit; more are faster on a GPU,
    and a clip may then differ by a grey level from the one that is made alone."""
