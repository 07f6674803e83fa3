"""The part of the config that makes limited teachers (jobs/train_teacher.py --config FILE; docs/teachers.md)."""

from __future__ import annotations

from dataclasses import dataclass, field

from echodfkd.errors import ConfigError

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


def check_limited(limited: LimitedConfig) -> None:
    """Refuse limited teachers that cannot be made. Raises `ConfigError`."""
    for option, least in (("clips", 1), ("steps", 1), ("batch_clips", 1), ("cases", 2)):
        if getattr(limited, option) < least:
            raise ConfigError(f"limited.{option}: got {getattr(limited, option)}, must be at least {least}")
    if len(limited.sites) < 2 or len(set(limited.sites)) < len(limited.sites):
        got = ", ".join(limited.sites) or "none"
        raise ConfigError(f"limited.sites: got {got}; expected two or more different scanners of the phantom")
    if limited.fusion not in FUSIONS:
        raise ConfigError(f"limited.fusion: got {limited.fusion!r}, allowed are {', '.join(FUSIONS)}")
