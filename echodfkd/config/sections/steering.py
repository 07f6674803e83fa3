"""Options of `source.steering`: which patients are drawn more often while a run goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.config.sections.option import MOST_STEPS, option


@dataclass(frozen=True)
class CurriculumStage:
    """Weights of the strata from one update on; between two stages they change linearly."""

    step: int = option(0, least=0, ceiling=MOST_STEPS)
    """Update (from 0) from which these weights hold."""
    shares: dict[str, list[float]] = field(default_factory=dict)
    """Per condition of source.steering.strata, a relative weight of each of its intervals (of a word: of each word); a
    stratum's weight is the product. A condition that is not named weighs all alike."""


@dataclass(frozen=True)
class SteeringConfig:
    """Draw patients by a law that changes while the run goes on (docs/explanation/steering.md). Off without strata."""

    strata: dict[str, list[float]] = field(default_factory=dict)
    """Conditions that cut the patients into strata, each with its inner edges, e.g. {ef_percent: [40], view: []}; []
    takes the edges of the report, and every word of a condition that is one. source are the parts of a mixture. Empty:
    no steering."""
    follow: str = option("disagreement", choices=("disagreement", "temporal", "judge", "none"))
    """Signal that the law goes towards. disagreement: students and teacher differ in their masks; temporal: in the
    change of their masks from frame to frame; judge: the embedded judge scores the students' masks below the teacher's;
    none: only the curriculum."""
    judged: float = option(0.1, above=0, most=1)
    """follow=judge: share of the clips that the judge scores, in the process that trains."""
    temperature: float = option(0.5, above=0, ceiling=1000)
    """A stratum's weight is its mean signal to the power of 1 / temperature: small ones go to the worst stratum, large
    ones weigh all strata alike."""
    floor: float = option(0.5, above=0, most=1)
    """Share of the clips that is drawn from the patients as they are, whatever the law says; no patient is lost."""
    every: int = option(1, least=1, ceiling=MOST_STEPS)
    """Published checkpoints from one law to the next: a segment of the plan."""
    again: float = option(0.0, least=0, most=0.5)
    """Share of the clips that come back: those with the largest signal since the law before."""
    curriculum: list[CurriculumStage] = field(default_factory=list)
    """Weights of the strata by step, times those of the signal if one is followed."""
