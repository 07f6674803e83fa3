"""Options of `limited`: teachers on small labelled sets (echodfkd train-teacher; docs/how-to/limited-teachers.md)."""

from __future__ import annotations

from dataclasses import dataclass

from echodfkd.config.sections.option import MOST_STEPS, option
from echodfkd.config.sections.source import DOMAIN_NAMES
from echodfkd.config.sections.teacher import FUSIONS


@dataclass(frozen=True)
class LimitedConfig:
    """Several teachers, each trained on a small labelled set of its own, and how they are scored."""

    out: str = option("", path="output")
    """Folder of their weights: SITE.safetensors, SITE.json (recipe and held-out scores) and teachers.json."""
    sites: list[str] = option(factory=lambda: ["default", "clear", "handheld"], choices=DOMAIN_NAMES)
    """Scanners of the phantom, one site each; the site's teacher sees no other scanner."""
    clips: int = option(24, least=1, ceiling=100_000)
    """Labelled clips of one site. No patient is at two sites."""
    steps: int = option(150, least=1, ceiling=MOST_STEPS)
    """Optimiser steps of one teacher."""
    batch_clips: int = option(8, least=1, ceiling=65_536)
    """Clips in one step, two labelled frames of each."""
    cases: int = option(24, least=2, ceiling=1_000_000)
    """Held-out cases scored of each scanner."""
    fusion: str = option("mean_prob", choices=FUSIONS)
    """How the teachers are fused in the table (`teacher.fusion`)."""
