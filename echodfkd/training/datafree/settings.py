"""The settings of distillation without data: which clips a student sees, and how they are made."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.core.errors import ConfigError
from echodfkd.models.generators.plain_noise import CANDIDATES

KINDS = ("conditions", "noise", "adversarial", "guided")
"""Kinds of clips: drawn under random conditions, plain noise, painted against the student, noise chosen by the
teacher's batch statistics."""


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """A painter's training.

    ``bound`` is the gap of teacher and student, 0..1, above which a painted clip gains nothing (Zhou and Chiam 2023).
    ``gap`` weighs the gap against the preset masks' loss. ``painter_rate`` is its learning rate.
    """

    bound: float = 0.5
    gap: float = 1.0
    painter_rate: float = 2e-3


@dataclass(frozen=True, kw_only=True)
class DataFreeSettings(Adversary):
    """One student's training, and its painter's.

    ``shares`` are the parts of a batch by kind, which sum to 1 and are held exactly over the run. The painter is
    updated every ``paint_every`` steps. ``statistics`` weighs the distance of painted clips to the teacher's batch
    statistics; 0 goes without. A guided clip is the best of ``candidates``.
    """

    shares: dict[str, float]
    steps: int
    batch: int
    frames: int
    size: int
    seed: int
    statistics: float = 0.0
    paint_every: int = 2
    candidates: int = CANDIDATES
    rate: float = 3e-3

    def check(self) -> None:
        """Refuse shares that do not sum to 1 or that nothing gives. Raises `ConfigError`."""
        wrong = [name for name in self.shares if name not in KINDS]
        if wrong:
            raise ConfigError(f"shares: got {', '.join(wrong)}, allowed are {', '.join(KINDS)}")
        if min(self.shares.values(), default=0.0) < 0 or abs(sum(self.shares.values()) - 1.0) > 1e-9:
            raise ConfigError(f"shares: must be at least 0 and sum to 1, got {self.shares}")
        if not 0.0 < self.bound <= 1.0:
            raise ConfigError(f"bound: got {self.bound}, must be above 0 and at most 1")

    def kinds(self) -> list[str]:
        """The kind of the clip of each slot: after n slots each kind has its share of n, to within one clip."""
        names = [name for name in KINDS if self.shares.get(name, 0.0) > 0]
        given, found = dict.fromkeys(names, 0), []
        for slot in range(self.steps * self.batch):
            found.append(max(names, key=lambda name: self.shares[name] * (slot + 1) - given[name]))
            given[found[-1]] += 1
        return found
