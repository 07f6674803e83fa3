"""Options of `teacher.route`: which members of an ensemble teach a clip (docs/explanation/steering.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.config.sections.option import option

OF_WORDS = ("source", "domain", "view", "sex")
OF_NUMBERS = ("ef_percent", "edv_ml", "esv_ml", "heart_rate_bpm", "age_years", "bsa_m2", "image_quality")
"""Properties that a clip is routed by: fields of the clip and of its conditions."""
CERTAINTY = "certainty"


@dataclass(frozen=True)
class RouteConfig:
    """The members that teach a clip; without ``by`` all of them do."""

    by: str = option("", choices=("", *OF_WORDS, *OF_NUMBERS, CERTAINTY))
    """Property of a clip that decides: the part of a mixture that it is of (source), its domain, a condition, or the
    certainty of ``gate``, 0 .. 1."""
    to: dict[str, str] = field(default_factory=dict)
    """Values of it, and the member that teaches their clips; of numbers LOW..HIGH, from LOW to below HIGH, either of
    which may be left out. Several members, with commas, are fused."""
    default: str = ""
    """The same for clips whose value is none of these, or unknown."""

    gate: str = ""
    """certainty: the member that sees every clip first, on the CPU that makes the clip; it should be a small one."""

    @property
    def routes(self) -> tuple[str, ...]:
        """Every route, each once."""
        return tuple(dict.fromkeys((*self.to.values(), self.default))) if self.by else ()
