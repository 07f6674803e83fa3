"""The part of the config that makes limited teachers (jobs/train_teacher.py --config FILE; docs/how-to/teachers.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

FUSIONS = ("mean_prob", "mean_logit", "staple", "entropy", "agreement", "gate")


@dataclass(frozen=True)
class LimitedConfig:
    """Several teachers, each trained on a small labelled set of its own, and how they are scored."""

    out: str = ""
    """Folder of their weights: SITE.safetensors, SITE.json (recipe and held-out scores) and teachers.json."""
    sites: list[str] = field(default_factory=lambda: ["default", "clear", "handheld"])
    """Scanners of the phantom, one site each; the site's teacher sees no other scanner."""
    clips: int = 24
    """Labelled clips of one site. No patient is at two sites."""
    steps: int = 150
    """Optimiser steps of one teacher."""
    batch_clips: int = 8
    """Clips in one step, two labelled frames of each."""
    cases: int = 24
    """Held-out cases scored of each scanner."""
    fusion: str = "mean_prob"
    """How the teachers are fused in the table (`teacher.fusion`)."""
